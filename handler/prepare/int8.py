"""Puts the int8 form of the weights into a snapshot, so that a boot on the CPU maps it instead of computing it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from handler.engine.config import ModelConfig, read_config
from handler.engine.quantised import quantised_specs, quantised_tensors
from handler.engine.snapshot import QUANTISED_FILE, Snapshot, open_snapshot
from handler.engine.weights.safetensors import iter_tensors
from handler.errors import UnsupportedModelError
from handler.prepare.manifest import describe_file, write_manifest
from handler.prepare.progress import Progress
from handler.prepare.safetensors_stream import write_safetensors


def write_int8(directory: Path, progress: Progress) -> None:
    """Write the file beside the other files of `directory`, unless transformers' classes compute the model.

    Raises:
        SnapshotError: the weights do not belong to the configuration; see the subclasses.
    """
    config = _own_config(directory)
    if config is None:
        return
    specs = quantised_specs(config)
    progress.step("quantising the weights to int8", sum(spec.size_bytes for spec in specs))
    draft = directory / f".{QUANTISED_FILE}"
    draft.unlink(missing_ok=True)
    with torch.inference_mode():
        write_safetensors(draft, specs, quantised_tensors(config, iter_tensors(directory)), progress.advance)
    draft.replace(directory / QUANTISED_FILE)


def lacks_int8(snapshot: Snapshot) -> bool:
    """Whether it could hold the file and does not."""
    if any(file.name == QUANTISED_FILE for file in snapshot.manifest.files):
        return False
    return _own_config(snapshot.directory) is not None


def add_int8(snapshot: Snapshot, progress: Progress) -> Snapshot:
    """The snapshot with the file and its entry in the manifest, as it is where it has them or cannot have them.

    Raises:
        OSError: the directory cannot be written.
        SnapshotError: as `write_int8`.
    """
    if not lacks_int8(snapshot):
        return snapshot
    write_int8(snapshot.directory, progress)
    path = snapshot.directory / QUANTISED_FILE
    progress.step("taking checksums", path.stat().st_size)
    files = (*snapshot.manifest.files, describe_file(path, progress))
    write_manifest(snapshot.directory, msgspec.structs.replace(snapshot.manifest, files=files))
    return open_snapshot(snapshot.directory)


def _own_config(directory: Path) -> ModelConfig | None:
    """None where transformers' classes compute the model, which prepare has seen to."""
    try:
        return read_config(directory)
    except UnsupportedModelError:
        return None
