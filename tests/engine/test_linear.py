from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handler.engine.linear import FloatLinear, Int8Linear, Linear, PackedLinear, quantise_rows

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("several_threads")


def int8(weight: Tensor, bias: Tensor | None) -> Int8Linear:
    quantised, scales = quantise_rows(weight)
    return Int8Linear(quantised, scales.squeeze(1), bias)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 100),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_a_quantised_row_is_within_half_a_step(rows: int, columns: int, scale: float, seed: int) -> None:
    x = random(rows, columns, seed=seed) * scale
    quantised, scales = quantise_rows(x)
    assert quantised.dtype == torch.int8
    assert quantised.abs().max() <= 127
    assert ((quantised * scales - x).abs() <= scales * 0.5001).all()


def test_zeros_stay_zeros() -> None:
    quantised, scales = quantise_rows(torch.zeros(3, 8))
    assert not quantised.any()
    assert scales.isfinite().all()
    layer = int8(torch.zeros(4, 8), torch.arange(4.0))
    assert torch.equal(layer(torch.zeros(2, 8)), torch.arange(4.0).expand(2, 4))


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 64, 96), (5, 96, 64), (17, 576, 1536), (130, 33, 7)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_is_within_its_bound(rows: int, inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> None:
    weight, x = random(outputs, inputs, seed=1), random(rows, inputs, seed=2).to(dtype)
    b = random(outputs, seed=3).to(dtype) if bias else None
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if b is None else b.double())
    result = int8(weight, b)(x)
    assert result.dtype == dtype
    # |xw - x'w'| <= sum of |x| dw + |w'| dx, each rounding at most half of its step
    weight_step, x_step = weight.abs().amax(dim=1) / 127, x.double().abs().amax(dim=1, keepdim=True) / 127
    bound = x.double().abs().sum(dim=1, keepdim=True) * weight_step * 0.5
    bound = bound + x_step * 0.5 * (weight.abs() + weight_step[:, None] * 0.5).double().sum(dim=1)
    slack = exact.abs() * torch.finfo(dtype).eps * 2 + 1e-5
    error = (result.double() - exact).abs()
    assert (error <= bound + slack).all()
    assert error.mean() < exact.abs().mean() * 0.02


EXACT = """
import torch
from handler.engine.linear import Int8Linear

generator = torch.Generator().manual_seed(0)
for rows, inputs, outputs in [(1, 576, 1536), (3, 33, 7), (40, 1536, 576)]:
    weight = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
    x = torch.randint(-127, 128, (rows, inputs), generator=generator, dtype=torch.int8)
    weight[0] = x[0] = 127
    sums = Int8Linear(weight, torch.ones(outputs), None)._multiply(x)
    assert torch.equal(sums.long(), x.long() @ weight.long().t()), (rows, inputs, outputs)
"""


@pytest.mark.parametrize("instructions", ["DEFAULT", "AVX512_CORE", "AVX2", "SSE41"])
def test_sums_are_exact_on_processors_without_int8_instructions_too(instructions: str) -> None:
    environ = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}  # read once, when torch first multiplies
    done = subprocess.run(
        [sys.executable, "-c", EXACT], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("digits", [1, 2])
def test_the_result_is_in_the_dtype_of_the_activations(digits: int, dtype: torch.dtype) -> None:
    weight, x = random(7, 33), random(3, 33, seed=1).to(dtype)
    quantised, scales = quantise_rows(weight)
    result = Int8Linear(quantised, scales.squeeze(1), None, digits)(x)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), x.float() @ weight.T, rtol=0.1, atol=0.3)


needs_packing = pytest.mark.skipif(
    not PackedLinear.is_available(torch.device("cpu"), torch.float32), reason="this build of torch has no oneDNN"
)


@pytest.mark.parametrize("kind", [int8, pytest.param(PackedLinear, marks=needs_packing)])
@pytest.mark.parametrize(("inputs", "outputs"), [(96, 200), (1536, 576), (33, 7)])
def test_a_row_has_the_same_bits_whatever_is_beside_it(
    kind: Callable[[Tensor, Tensor], Linear], inputs: int, outputs: int
) -> None:
    layer = kind(random(outputs, inputs, seed=1), random(outputs, seed=2))
    x = random(300, inputs, seed=3) * torch.logspace(-3, 3, 300)[:, None]
    together = layer(x)
    for first, last in [(0, 1), (1, 2), (299, 300), (3, 8), (10, 43), (0, 128), (128, 300), (17, 33)]:
        assert torch.equal(layer(x[first:last]), together[first:last])
    order = torch.randperm(300, generator=torch.Generator().manual_seed(4))
    assert torch.equal(layer(x[order]), together[order])


@pytest.mark.parametrize("kind", [FloatLinear, pytest.param(PackedLinear, marks=needs_packing)])
@pytest.mark.parametrize("rows", [1, 2, 19])
def test_plain_weights_are_a_matrix_product(kind: Callable[[Tensor, Tensor | None], Linear], rows: int) -> None:
    weight, bias, x = random(5, 8), random(5, seed=1), random(rows, 8, seed=2)
    torch.testing.assert_close(kind(weight, bias)(x), x @ weight.T + bias)
    torch.testing.assert_close(kind(weight, None)(x), x @ weight.T)
