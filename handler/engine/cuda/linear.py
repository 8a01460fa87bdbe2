"""Eight-bit linear layers on CUDA: int8 as on the CPU, filled up to the shapes its kernel takes, and fp8.

Both quantise every row of the activations by itself, so that a row's scale does not depend on what shares its batch.
Which form of the fp8 product a device has is found out by trying it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch user knows)
from torch import Tensor

from handler.engine.linear import Int8Linear

_INT8_MULTIPLE = 8
_INT8_MIN_ROWS = 24
"""cuBLAS wants more than 16 rows, and a multiple of 8."""

_FP8 = torch.float8_e4m3fn
_FP8_LARGEST = torch.finfo(_FP8).max
_FP8_MULTIPLE = 16

ScaledProduct = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""fp8 (T, C) with scales (T, 1), and fp8 (C, N) column-major with scales (1, N) -> (T, N)."""


class PaddedInt8Linear(Int8Linear):
    """`Int8Linear` with zeros around its operands: they change no sum."""

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None, digits: int = 1) -> None:
        super().__init__(weight, scales, bias, digits)
        inputs, self._num_outputs = self._weight.shape
        filled = _filled(self._weight.t(), -self._num_outputs % _INT8_MULTIPLE, -inputs % _INT8_MULTIPLE)
        self._weight = filled.t()

    def _multiply(self, quantised: Tensor) -> Tensor:
        rows, inputs = quantised.shape
        more_rows = max(_INT8_MIN_ROWS, rows + -rows % _INT8_MULTIPLE) - rows
        filled = _filled(quantised, more_rows, self._weight.shape[0] - inputs)
        return super()._multiply(filled)[:rows, : self._num_outputs]


class Fp8Linear:
    """Weights and activations as e4m3, one scale per output row and per activation row."""

    def __init__(self, weight: Tensor, bias: Tensor | None, product: ScaledProduct) -> None:
        outputs, inputs = weight.shape
        filled = _filled(weight.float(), -outputs % _FP8_MULTIPLE, -inputs % _FP8_MULTIPLE)
        quantised, scales = quantise_rows_fp8(filled)
        self._weight = quantised.t()
        self._scales = scales.t().contiguous()
        self._num_outputs = outputs
        self._bias = bias
        self._product = product

    def __call__(self, x: Tensor) -> Tensor:
        """Quantise and multiply."""
        quantised, scales = quantise_rows_fp8(_filled(x, 0, self._weight.shape[0] - x.shape[1]))
        out = self._product(quantised, self._weight, scales, self._scales)[:, : self._num_outputs].to(x.dtype)
        out = out.contiguous()  # where columns were filled up the rows lie apart, which kernels do not expect
        return out if self._bias is None else out + self._bias


def _filled(matrix: Tensor, more_rows: int, more_columns: int) -> Tensor:
    """`matrix` with zeros below and beside it; itself, not a copy, if none are wanted."""
    return F.pad(matrix, (0, more_columns, 0, more_rows)) if more_rows or more_columns else matrix


def quantise_rows_fp8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`rows` (R, C) -> e4m3 (R, C) and float32 scales (R, 1), so that rows ~ e4m3 * scale; zeros stay zeros."""
    scales = (rows.abs().amax(dim=-1, keepdim=True).float() / _FP8_LARGEST).clamp_min_(torch.finfo(torch.float32).tiny)
    return (rows / scales).to(_FP8), scales


def has_int8_product(device: torch.device) -> bool:
    """Whether `device` multiplies int8 matrices, and rightly."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (24, 32), generator=generator).float()
    x = torch.randint(-127, 128, (3, 32), generator=generator).float()
    x[:, 0] = 127  # so that every scale is 1
    try:
        product = PaddedInt8Linear(weight.to(device, torch.int8), torch.ones(24, device=device), None)(x.to(device))
    except RuntimeError:
        return False
    return torch.equal(product.cpu(), x @ weight.t())


def find_scaled_product(device: torch.device, dtype: torch.dtype) -> ScaledProduct | None:
    """The fp8 product that works on `device`: with scales per row inside, else applied outside; None without any.

    `dtype` is what the result is wanted in; a product that gives bfloat16 only will do as well.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(rows, 64, generator=generator) for rows in (5, 32))
    (left, left_scales), (right, right_scales) = quantise_rows_fp8(a), quantise_rows_fp8(b)
    expected = (left.float() * left_scales) @ (right.float() * right_scales).t()
    operands = left, right, left_scales, right_scales
    left, right, left_scales, right_scales = (operand.to(device) for operand in operands)
    for out_dtype in dict.fromkeys((dtype, torch.bfloat16)):
        for product in (_scaled_inside(out_dtype), _scaled_outside(out_dtype)):
            try:
                found = product(left, right.t(), left_scales, right_scales.t().contiguous())
            except (RuntimeError, ValueError, NotImplementedError):
                continue
            if torch.allclose(found.float().cpu(), expected, rtol=0.02, atol=0.02 * float(expected.abs().max())):
                return product
    return None


def _scaled_inside(out_dtype: torch.dtype) -> ScaledProduct:
    def product(left: Tensor, right: Tensor, left_scales: Tensor, right_scales: Tensor) -> Tensor:
        return torch._scaled_mm(left, right, left_scales, right_scales, out_dtype=out_dtype)  # noqa: SLF001  (torch has no other)

    return product


def _scaled_outside(out_dtype: torch.dtype) -> ScaledProduct:
    """With one scale for the whole product inside, which is 1: a row's bits stay its own."""

    def product(left: Tensor, right: Tensor, left_scales: Tensor, right_scales: Tensor) -> Tensor:
        one = torch.ones((), dtype=torch.float32, device=left.device)
        raw = torch._scaled_mm(left, right, one, one, out_dtype=out_dtype)  # noqa: SLF001  (torch has no other)
        return raw.float() * left_scales * right_scales

    return product
