"""Reads the JSON documents of a snapshot, and judges the names in them: what is wrong is said with the path."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from handler.errors import CorruptSnapshotError

T = TypeVar("T")

_MAX_BYTES = 64 << 20
"""An index of weights has some megabytes, and what is read here grows to ten times its size in memory."""

_MAX_NAME_BYTES = 255


def is_plain_name(name: str) -> bool:
    """Whether it names a file of the directory itself, and not one elsewhere or one that cannot be."""
    is_here = Path(name).name == name and name not in {"", ".."}
    return is_here and "\0" not in name and len(name.encode()) <= _MAX_NAME_BYTES


def read_json(path: Path, kind: type[T], what: str) -> T:
    """The document in `path` as a `kind`; `what` it is called in errors.

    Raises:
        CorruptSnapshotError: the file is missing or too large, no JSON, or of another type.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > _MAX_BYTES:
            raise CorruptSnapshotError(f"{path} has {size_bytes} bytes; no {what} has more than {_MAX_BYTES}")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise CorruptSnapshotError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptSnapshotError(f"{path} is no {what}: {error}") from error
