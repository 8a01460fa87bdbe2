"""What a layer does between its matrix products and attention: norms, rotation, cache writes, activation.

`Kernels` is the seam where a device brings fused versions; `TorchKernels` runs everywhere and says what they compute.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch user knows)
from torch import Tensor

from handler.engine.kv_cache import KvCache
from handler.engine.rope import rotate


class RmsNorm(msgspec.Struct, frozen=True):
    """Root mean square norm over the last dimension (arXiv:1910.07467)."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """`x` (..., C) -> (..., C)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class HeadNorms(msgspec.Struct, frozen=True):
    """Norms of single heads, applied to queries and keys before their rotation."""

    query: RmsNorm
    key: RmsNorm


class Kernels(Protocol):
    """The elementwise work of a layer."""

    def add_norm(self, stream: Tensor, update: Tensor | None, norm: RmsNorm) -> tuple[Tensor, Tensor]:
        """Add `update` to the residual `stream`, both (T, hidden_size); the sum's norm and the sum."""

    def rotate_and_store(
        self,
        heads: Tensor,
        norms: HeadNorms | None,
        rope_rows: tuple[Tensor, Tensor],
        cache: KvCache,
        layer: int,
        slots: Tensor,
    ) -> Tensor:
        """Split `heads` (T, num_heads + 2 * num_kv_heads, head_dim); keys and values go to `slots` (T,) of the cache.

        Returns the rotated queries (T, num_heads, head_dim).
        """

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """`gate_up` (T, 2 * C), gates first -> silu(gate) * up (T, C)."""


class TorchKernels:
    """One torch operation after the other."""

    def add_norm(self, stream: Tensor, update: Tensor | None, norm: RmsNorm) -> tuple[Tensor, Tensor]:
        """As `Kernels.add_norm`."""
        if update is not None:
            stream = stream + update
        return norm(stream), stream

    def rotate_and_store(
        self,
        heads: Tensor,
        norms: HeadNorms | None,
        rope_rows: tuple[Tensor, Tensor],
        cache: KvCache,
        layer: int,
        slots: Tensor,
    ) -> Tensor:
        """As `Kernels.rotate_and_store`."""
        num_kv_heads = cache.num_kv_heads
        num_heads = heads.shape[1] - 2 * num_kv_heads
        rotated, values = torch.split(heads, [num_heads + num_kv_heads, num_kv_heads], dim=1)
        if norms is not None:
            queries, keys = torch.split(rotated, [num_heads, num_kv_heads], dim=1)
            rotated = torch.cat((norms.query(queries), norms.key(keys)), dim=1)
        rotated = rotate(rotated, rope_rows)
        cache.write(layer, rotated[:, num_heads:], values, slots)
        return rotated[:, :num_heads]

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """As `Kernels.silu_mul`."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
