"""What a tensor will be, known before its data is read."""

from __future__ import annotations

import math

import msgspec
import torch


class TensorSpec(msgspec.Struct, frozen=True):
    """Name, dtype and shape of a stored tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Of its data."""
        return math.prod(self.shape) * self.dtype.itemsize
