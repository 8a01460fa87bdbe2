from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handler.engine.cuda import linear
from handler.engine.cuda.linear import (
    Fp8Linear,
    PaddedInt8Linear,
    find_scaled_product,
    has_int8_product,
    quantise_rows_fp8,
)
from handler.engine.linear import Int8Linear, quantise_rows

CPU = torch.device("cpu")
needs_fp8 = pytest.mark.skipif(
    find_scaled_product(CPU, torch.float32) is None, reason="this build of torch has no fp8 product for this CPU"
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    quantised, scales = quantise_rows(weight)
    return quantised, scales.squeeze(1)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 64, 96), (16, 33, 7), (17, 40, 24), (130, 8, 9)])
@pytest.mark.parametrize("digits", [1, 2])
def test_padding_changes_no_bit(rows: int, inputs: int, outputs: int, digits: int) -> None:
    (weight, scales), bias, x = int8(random(outputs, inputs)), random(outputs, seed=1), random(rows, inputs, seed=2)
    plain = Int8Linear(weight, scales, bias, digits)
    assert torch.equal(PaddedInt8Linear(weight, scales, bias, digits)(x), plain(x))


def test_shapes_are_what_cuda_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    multiply = torch._int_mm

    def record(left: Tensor, right: Tensor) -> Tensor:
        shapes.append((*left.shape, right.shape[1]))
        return multiply(left, right)

    monkeypatch.setattr(torch, "_int_mm", record)
    layer = PaddedInt8Linear(*int8(random(7, 33)), None)
    for rows in (1, 16, 24, 25):
        layer(random(rows, 33))
    assert shapes == [(24, 40, 8), (24, 40, 8), (24, 40, 8), (32, 40, 8)]


@settings(max_examples=40)
@given(rows=st.integers(1, 9), columns=st.integers(1, 50), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]))
def test_a_quantised_row_is_within_a_sixteenth(rows: int, columns: int, scale: float) -> None:
    x = random(rows, columns, seed=rows * 100 + columns) * scale
    quantised, scales = quantise_rows_fp8(x)
    assert quantised.dtype == torch.float8_e4m3fn
    restored = quantised.float() * scales
    assert ((restored - x).abs() <= x.abs() / 16 + scales * 2**-9).all()
    assert restored.isfinite().all()


@needs_fp8
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 64, 96), (5, 33, 7), (40, 576, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["found", "inside", "outside"])
def test_the_fp8_product_is_that_of_the_rounded_operands(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype, form: str
) -> None:
    product = {
        "found": find_scaled_product(CPU, dtype),
        "inside": linear._scaled_inside(dtype),
        "outside": linear._scaled_outside(dtype),
    }[form]
    assert product is not None
    weight, bias, x = random(outputs, inputs), random(outputs, seed=1).to(dtype), random(rows, inputs, seed=2).to(dtype)
    (left, left_scales), (right, right_scales) = quantise_rows_fp8(x), quantise_rows_fp8(weight)
    expected = (left.double() * left_scales) @ (right.double() * right_scales).t() + bias.double()
    out = Fp8Linear(weight, bias, product)(x)
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(out.double(), expected, rtol=2 * tolerance, atol=tolerance * inputs**0.5)


@needs_fp8
def test_rows_lie_one_behind_the_other_where_columns_were_filled_up() -> None:
    product = find_scaled_product(CPU, torch.float32)
    assert product is not None
    assert Fp8Linear(random(7, 32), None, product)(random(3, 32)).is_contiguous()


@needs_fp8
def test_zeros_stay_zeros() -> None:
    product = find_scaled_product(CPU, torch.float32)
    assert product is not None
    out = Fp8Linear(torch.zeros(4, 8), torch.arange(4.0), product)(torch.zeros(2, 8))
    assert torch.equal(out, torch.arange(4.0).expand(2, 4))


def test_a_device_without_a_product_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Tensor:
        raise RuntimeError("not on this device")

    assert has_int8_product(CPU)
    monkeypatch.setattr(torch, "_int_mm", refuse)
    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    assert not has_int8_product(CPU)
    assert find_scaled_product(CPU, torch.float32) is None


@needs_fp8
def test_a_product_that_takes_no_scales_per_row_gets_them_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = torch._scaled_mm

    def of_old(*operands: Tensor, out_dtype: torch.dtype) -> Tensor:
        if operands[2].numel() > 1 or out_dtype != torch.bfloat16:
            raise RuntimeError("scales must be scalars, and the result bfloat16")
        return multiply(*operands, out_dtype=out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", of_old)
    product = find_scaled_product(CPU, torch.float16)
    assert product is not None
    weight, x = random(32, 64), random(3, 64, seed=1).half()
    out = Fp8Linear(weight, None, product)(x)
    assert out.dtype == torch.float16
    assert (out.float() - x.float() @ weight.t()).norm() < 0.06 * (x.float() @ weight.t()).norm()
