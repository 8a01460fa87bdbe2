"""Streams the tensors of a model directory in safetensors, mapped into memory rather than read.

Knows shards and their index; nothing of what the tensors are for. `iter_tensors` runs in the engine thread,
the rest in whichever thread prepares a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from handler.engine.json_file import is_plain_name, read_json
from handler.errors import CorruptSnapshotError

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
DAMAGED = (SafetensorError, OSError, ValueError, TypeError, RuntimeError)
"""What the library raises, and torch below it."""


def shard_names(directory: Path) -> list[str]:
    """Names of the files that hold the weights: those of the index, else the single file.

    Raises:
        CorruptSnapshotError: the index is malformed or names what is no file name, or there are no weights.
    """
    weight_map = _weight_map(directory)
    if weight_map is not None:
        return sorted(set(weight_map.values()))
    if not (directory / SINGLE_FILE).is_file():
        raise CorruptSnapshotError(f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}")
    return [SINGLE_FILE]


def check_headers(directory: Path) -> None:
    """Compare every shard's header with its file's size, and all of them with the index. Reads no tensor.

    Raises:
        CorruptSnapshotError: a shard is missing, truncated or malformed, or a tensor is missing or there
        twice.
    """
    weight_map = _weight_map(directory)
    found: dict[str, str] = {}
    for shard in shard_names(directory):
        path = directory / shard
        for name in _tensor_names(path):
            if name in found:
                raise CorruptSnapshotError(f"tensor {name!r} is in {directory / found[name]} and in {path}")
            found[name] = shard
    if weight_map is not None and found != weight_map:
        name = min(name for name in found.keys() | weight_map.keys() if found.get(name) != weight_map.get(name))
        places = f"{weight_map.get(name, 'nowhere')}, but it is in {found.get(name, 'none of the shards')}"
        raise CorruptSnapshotError(f"{directory / INDEX_FILE} has tensor {name!r} in {places}")


def iter_tensors(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor by name, shard by shard: views of mapped files on the CPU, read when touched.

    All headers are checked before the first tensor comes, so nothing has been allocated when an error is
    raised.

    Raises:
        CorruptSnapshotError: as `check_headers` does; names the file.
    """
    check_headers(directory)
    for shard in shard_names(directory):
        with safe_open(directory / shard, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118  # safe_open has keys() and is no mapping
                yield name, read_tensor(file, name, directory / shard)


def read_tensor(file: Any, name: str, path: Path) -> torch.Tensor:
    """One tensor of an open file, a view of it.

    Raises:
        CorruptSnapshotError: the file has a shape for it that no tensor can have.
    """
    try:
        tensor: torch.Tensor = file.get_tensor(name)
    except DAMAGED as error:
        raise CorruptSnapshotError(f"{path} is damaged at {name!r}: {error}") from error
    return tensor


def _tensor_names(path: Path) -> list[str]:
    if not path.is_file():
        raise CorruptSnapshotError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return list(file.keys())
    except DAMAGED as error:
        raise CorruptSnapshotError(f"{path} is damaged: {error}") from error


def _weight_map(directory: Path) -> dict[str, str] | None:
    path = directory / INDEX_FILE
    if not path.is_file():
        return None
    weight_map = read_json(path, _Index, "index").weight_map
    for shard in weight_map.values():
        if not is_plain_name(shard) or not shard.endswith(".safetensors"):
            raise CorruptSnapshotError(f"{path} names {shard[:300]!r}, which is no plain safetensors file name")
    return weight_map


class _Index(msgspec.Struct):
    weight_map: dict[str, str]
