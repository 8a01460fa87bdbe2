"""The file of a snapshot that holds the int8 form of its weights, mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from handler.engine.snapshot import QUANTISED_FILE
from handler.engine.weights.safetensors import DAMAGED, read_tensor
from handler.engine.weights.specs import TensorSpec
from handler.errors import CorruptSnapshotError


def read_quantised(directory: Path, specs: Sequence[TensorSpec]) -> dict[str, Tensor] | None:
    """The tensors by name, views of the mapped file that are read when touched; None where there is no such file.

    Raises:
        CorruptSnapshotError: the file is damaged or does not hold just the tensors of `specs`.
    """
    path = directory / QUANTISED_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: read_tensor(file, name, path) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except DAMAGED as error:
        raise CorruptSnapshotError(f"{path} is damaged: {error}") from error
    found = {TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    if wrong := found.symmetric_difference(specs):
        first = min(spec.name for spec in wrong)
        raise CorruptSnapshotError(f"{path} does not hold the tensors of this model; the first that differs is {first}")
    return tensors
