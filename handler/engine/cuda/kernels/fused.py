"""The elementwise work of a layer in Triton: what `handler.engine.kernels.TorchKernels` does, in one launch each."""

from __future__ import annotations

from torch import Tensor

from handler.engine.cuda.kernels.activation import silu_mul
from handler.engine.cuda.kernels.norm import add_norm
from handler.engine.cuda.kernels.rotary import rotate_and_store
from handler.engine.kernels import HeadNorms, RmsNorm
from handler.engine.kv_cache import KvCache


class TritonKernels:
    """Fused kernels; see `Kernels` for shapes."""

    def add_norm(self, stream: Tensor, update: Tensor | None, norm: RmsNorm) -> tuple[Tensor, Tensor]:
        """As `Kernels.add_norm`."""
        return add_norm(stream, update, norm.weight, norm.eps)

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
        weights = None if norms is None else (norms.query.weight, norms.key.weight)
        eps = 0.0 if norms is None else norms.query.eps
        return rotate_and_store(heads, weights, eps, rope_rows, cache.keys[layer], cache.values[layer], slots)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """As `Kernels.silu_mul`."""
        return silu_mul(gate_up)
