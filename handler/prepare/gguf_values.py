"""Reads single values of a GGUF file's metadata as they were meant. Knows no key's meaning."""

from __future__ import annotations

from typing import Any

import numpy as np

from handler.engine.weights.gguf import GgufFile
from handler.errors import UnsupportedModelError


def value_of(file: GgufFile, key: str, *default: object) -> Any:
    """The value of `key` below the file's architecture.

    Raises:
        CorruptSnapshotError: the key is absent and no default is given.
    """
    return file.metadata(f"{file.architecture}.{key}", *default)


def integer_of(file: GgufFile, key: str, *default: int) -> int:
    """The value of `key` as one integer for the whole model.

    Raises:
        CorruptSnapshotError: the key is absent and no default is given.
        UnsupportedModelError: each layer has a value of its own.
    """
    value = value_of(file, key, *default)
    if isinstance(value, list):
        raise UnsupportedModelError(f"GGUF {file.architecture}.{key}", value, ["one value for all layers"])
    return int(value)


def shortest(value: float) -> float:
    """The shortest decimal that names this float32, so 1e-05 and not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
