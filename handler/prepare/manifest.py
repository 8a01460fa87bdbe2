"""Writes the manifest of a snapshot, last of its files and whole or not at all."""

from __future__ import annotations

from pathlib import Path

import msgspec

from handler.engine.snapshot import MANIFEST_FILE, Manifest, SnapshotFile, sha256_of
from handler.prepare.progress import Progress


def describe_file(path: Path, progress: Progress) -> SnapshotFile:
    """The file's entry; `progress` is told the bytes as they are read."""
    return SnapshotFile(path.name, path.stat().st_size, sha256_of(path, progress.advance))


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write or replace it."""
    draft = directory / f".{MANIFEST_FILE}"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    draft.replace(directory / MANIFEST_FILE)
