"""Finds snapshots and says whether they are whole. Owns their place on disk, their names and their manifest.

A snapshot is a directory ready to be mapped into memory: `model*.safetensors` (with
`model.safetensors.index.json` where there are several), `tokenizer.json`, `tokenizer_config.json`,
`config.json`, `generation_config.json`, `chat_template.jinja` where the model has one, and `manifest.json`,
which names all of them. Knows neither how snapshots are made (`handler.prepare`) nor what is inside their
files. Imports no torch; any thread may call it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from handler.engine.json_file import is_plain_name, read_json
from handler.errors import CorruptSnapshotError, SnapshotNotFoundError

EMBEDDED_MODEL = "smollm2-135m"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
QUANTISED_FILE = "int8.safetensors"
"""The linear layers in 8 bits, beside the weights as they came."""

# The hub's own rule: letters, digits, `-`, `_` and `.`, no `--` and no `..`, no `-` or `.` at either end.
_HUB_NAME = r"(?![.-])(?!.*(?:--|\.\.))[\w.-]{1,96}(?<![.-])"
_HUB_ID = re.compile(f"{_HUB_NAME}/{_HUB_NAME}", re.ASCII)
_READ_BYTES = 1 << 20


class SnapshotFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a snapshot: its plain name, its size and its SHA-256 in hexadecimal."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a snapshot was made of. Written last, so a directory that has one was complete.

    Attributes:
        format_version: of this manifest and of what the directory holds.
        source: where the model came from, in words and with its version where there is one.
        name: of the model, as `/v1/models` shows it.
        files: every file but the manifest.
        created_at: ISO 8601, in UTC.
    """

    format_version: int
    source: str
    name: str
    files: tuple[SnapshotFile, ...]
    created_at: str


class Snapshot(msgspec.Struct, frozen=True):
    """A directory whose files have the sizes that its manifest states."""

    directory: Path
    name: str
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """Of all files together, the manifest not counted."""
        return sum(file.size_bytes for file in self.manifest.files)


def is_hub_id(model_name: str) -> bool:
    """Whether the name has the form `organisation/model` and no directory of that name lies here."""
    return _HUB_ID.fullmatch(model_name) is not None and not _is_path(model_name)


def local_path(model_name: str) -> Path:
    """The model's name taken as a path, with `~` resolved where that user exists."""
    try:
        return Path(model_name).expanduser()
    except RuntimeError:
        return Path(model_name)


def snapshot_directory(model_name: str, home: Path) -> Path:
    """Where the snapshot of a model lies, prepared or not; the same name always gives the same directory.

    The embedded model keeps its name and a hub id becomes `organisation--model`, which is unambiguous because
    hub names hold no `--`. Anything else is a path, and gets its last part (without `--`) and a digest of the
    whole.
    """
    if model_name == EMBEDDED_MODEL:
        directory = EMBEDDED_MODEL
    elif is_hub_id(model_name):
        directory = model_name.replace("/", "--")
    else:
        path = local_path(model_name).resolve()
        readable = re.sub(r"[^A-Za-z0-9._]+", "-", path.name).strip("-.") or "model"
        directory = f"{readable[:64]}-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    return home / "snapshots" / directory


def find_snapshot(model_name: str, home: Path) -> Snapshot:
    """The prepared snapshot of a model, or `model_name` itself where it is a directory with a manifest.

    Raises:
        SnapshotNotFoundError: nothing has been prepared under this name.
        CorruptSnapshotError: the manifest cannot be read, or a file is missing or has another size.
    """
    in_place = local_path(model_name)
    if (in_place / MANIFEST_FILE).is_file():
        return open_snapshot(in_place.absolute())
    directory = snapshot_directory(model_name, home)
    if not (directory / MANIFEST_FILE).is_file():
        raise SnapshotNotFoundError(f"model {model_name!r} is not prepared; run: pilotlight prepare {model_name}")
    return open_snapshot(directory)


def open_snapshot(directory: Path) -> Snapshot:
    """Read the manifest of `directory` and compare every file's size with it.

    Raises:
        CorruptSnapshotError: the manifest cannot be read, or a file is missing or has another size.
    """
    manifest = _read_manifest(directory / MANIFEST_FILE)
    for file in manifest.files:
        path = directory / file.name
        if not is_plain_name(file.name):
            raise CorruptSnapshotError(
                f"{directory / MANIFEST_FILE} names {file.name[:300]!r}, which is no plain file name"
            )
        try:
            size_bytes = path.stat().st_size
        except OSError as error:
            raise CorruptSnapshotError(f"{path} is missing: {error.strerror}") from error
        if size_bytes != file.size_bytes:
            raise CorruptSnapshotError(f"{path} has {size_bytes} bytes, its manifest says {file.size_bytes}")
    return Snapshot(directory, manifest.name, manifest)


def verify_checksums(snapshot: Snapshot, advance: Callable[[int], None] | None = None) -> None:
    """Read every file whole and compare its SHA-256; `advance` is told the bytes as they are read.

    Raises:
        CorruptSnapshotError: a file cannot be read or differs; names the file.
    """
    for file in snapshot.manifest.files:
        path = snapshot.directory / file.name
        try:
            found = sha256_of(path, advance)
        except OSError as error:
            raise CorruptSnapshotError(f"{path} cannot be read: {error.strerror}") from error
        if found != file.sha256:
            raise CorruptSnapshotError(f"{path} has SHA-256 {found}, its manifest says {file.sha256}")


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file in hexadecimal; `advance` is told the bytes as they are read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            if advance is not None:
                advance(len(block))
    return digest.hexdigest()


def _is_path(model_name: str) -> bool:
    return model_name.endswith(".gguf") or Path(model_name).is_dir()


def _read_manifest(path: Path) -> Manifest:
    version = read_json(path, dict[str, object], "manifest").get("format_version")
    if version != FORMAT_VERSION:
        raise CorruptSnapshotError(f"{path} has format {version!r}, this version reads {FORMAT_VERSION}")
    return read_json(path, Manifest, "manifest")
