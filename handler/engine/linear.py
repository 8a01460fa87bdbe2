"""Linear layers: plain floating point, packed for oneDNN, and int8 weights with activations quantised per row.

All are given weights as (out_features, in_features) and compute `x @ weight.T + bias` for `x` (T, in_features).
"""

from __future__ import annotations

import functools
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch user knows)
from torch import Tensor

_TYPICAL_ROWS = 16  # the blocked form is chosen for that many; any number works


class Linear(Protocol):
    """`x` (T, in_features) -> (T, out_features)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the layer."""


class FloatLinear:
    """Weights in the dtype of the activations."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """One matrix product."""
        return F.linear(x, self._weight, self._bias)


class PackedLinear:
    """Weights reordered once into oneDNN's blocked form, for float32 and bfloat16 on the CPU.

    oneDNN computes each of two and more rows alike, however many there are, but a lone row by another kernel with
    other rounding. So a lone row gets company, and a row's result has the same bits whatever else is in `x`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _TYPICAL_ROWS)  # noqa: SLF001
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """One matrix product, of at least two rows."""
        rows = x.expand(2, -1) if len(x) == 1 else x
        product: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001  (what torch's own compiler emits)
            rows, self._weight, self._bias, "none", [], ""
        )
        return product[: len(x)]

    @staticmethod
    def is_available(device: torch.device, dtype: torch.dtype) -> bool:
        """Whether this build of torch, this device and this dtype have it."""
        return (
            device.type == "cpu"
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch leaves it bare
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")
            and (dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()))  # noqa: SLF001
        )


class Int8Linear:
    """Symmetric int8 weights, one scale per output row; activations quantised anew in each call, one scale per row.

    Integer sums are exact, so a row of the result has the same bits whatever other rows are in `x`. Where the machine's
    would not be, the lowest bit of each weight is multiplied on its own. With two `digits` what the first quantisation
    of `x` left over is quantised and multiplied as well.
    """

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None, digits: int = 1) -> None:
        """`weight` int8 (out_features, in_features), `scales` and `bias` float32 (out_features,)."""
        self._low_bits: Tensor | None = None
        if weight.device.type == "cpu" and int8_sums_saturate():
            self._low_bits = (weight & 1).t()
            weight = weight >> 1
        self._weight = weight.t()
        self._scales = scales
        self._bias = bias
        self._digits = digits

    def __call__(self, x: Tensor) -> Tensor:
        """Quantise, multiply integers, scale back."""
        dtype = x.dtype
        quantised, scales = quantise_rows(x)
        product = self._multiply(quantised) * scales
        for _ in range(1, self._digits):
            x = x - quantised * scales
            quantised, scales = quantise_rows(x)
            product += self._multiply(quantised) * scales
        product *= self._scales
        if self._bias is not None:
            product += self._bias
        return product.to(dtype)

    def _multiply(self, quantised: Tensor) -> Tensor:
        """Int8 (T, in_features) -> int32 (T, out_features)."""
        product = torch._int_mm(quantised, self._weight)  # noqa: SLF001  (the only int8 matmul torch has)
        if self._low_bits is not None:
            product = 2 * product + torch._int_mm(quantised, self._low_bits)  # noqa: SLF001
        return product


@functools.cache
def int8_sums_saturate() -> bool:
    """Whether torch's product of large int8 numbers is wrong here, as on x86 without VNNI, where it is slow as well.

    There oneDNN adds two products in 16 bits, an activation's plus 128 among the factors ("Nuances of int8
    computations" in its guide): 255 * 127 * 2 is too much for them, 255 * 64 * 2 is not.
    """
    largest = torch.full((2, 32), 127, dtype=torch.int8)
    return int(torch._int_mm(largest, largest.t())[0, 0]) != 32 * 127 * 127  # noqa: SLF001


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`rows` (R, C) float -> int8 (R, C) and float32 scales (R, 1), so that rows ~ int8 * scale; zeros stay zeros."""
    scales = (rows.abs().amax(dim=-1, keepdim=True).float() / 127.0).clamp_min_(torch.finfo(torch.float32).tiny)
    return (rows / scales).round_().to(torch.int8), scales
