"""Reads and writes the JSON files of a model directory. Knows nothing of what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from handler.errors import SnapshotError


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`.

    Raises:
        SnapshotError: the file cannot be read or holds no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SnapshotError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise SnapshotError(f"{path} holds no JSON object")
    return value


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Write `value` in UTF-8 with its keys in their order; on one line where `indent` is None."""
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
