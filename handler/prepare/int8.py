"""Puts the int8 form of the weights into a snapshot, so that a boot on the CPU maps it instead of computing it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from handler.engine.config import read_config
from handler.engine.quantised import quantised_specs, quantised_tensors
from handler.engine.snapshot import Snapshot, open_snapshot
from handler.engine.weights.quantised import QUANTISED_FILE
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
    try:
        config = read_config(directory)
    except UnsupportedModelError:
        return  # prepare has seen to it that transformers' classes can
    specs = quantised_specs(config)
    progress.step("quantising the weights to int8", sum(spec.size_bytes for spec in specs))
    draft = directory / f".{QUANTISED_FILE}"
    draft.unlink(missing_ok=True)
    with torch.inference_mode():
        write_safetensors(draft, specs, quantised_tensors(config, iter_tensors(directory)), progress.advance)
    draft.replace(directory / QUANTISED_FILE)


def add_int8(snapshot: Snapshot, progress: Progress) -> Snapshot:
    """The snapshot with the file and its entry in the manifest, as it is where it has them."""
    files = snapshot.manifest.files
    if any(file.name == QUANTISED_FILE for file in files):
        return snapshot
    write_int8(snapshot.directory, progress)
    if not (snapshot.directory / QUANTISED_FILE).exists():
        return snapshot
    entry = describe_file(snapshot.directory / QUANTISED_FILE, progress)
    write_manifest(snapshot.directory, msgspec.structs.replace(snapshot.manifest, files=(*files, entry)))
    return open_snapshot(snapshot.directory)
