"""Every set of instructions that this CPU has, against the same kernels in plain C: the same bits, not nearly the same.

So two sets that pass here give each other's bits as well, on whichever machines that was."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_int32
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handler.engine.native.decoder import NativeDecoder, Span
from handler.engine.native.library import INSTRUCTION_SETS, Kernels, Linear, kernels_path, load_kernels, open_library
from handler.engine.parameters import parameters
from handler.engine.quantised import pack_rows, quantised_tensors
from tests.engine.native.plain import COMPILER, compile_plain
from tests.engine.native.test_decoder import NUM_BLOCKS, table
from tests.engine.native.test_shapes import shaped

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="no int8 kernels: no C compiler, or not for this CPU")

ENDINGS = {instructions: ending for ending, instructions in INSTRUCTION_SETS.items()}


def available() -> list[Kernels]:
    path = kernels_path()
    return [] if path is None else open_library(path)


each_set = pytest.mark.parametrize("kernels", available(), ids=lambda kernels: ENDINGS[kernels.instructions])


class Quantised(ctypes.Structure):
    """pl_quantised."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sum", ctypes.c_void_p),
        ("stride", c_int32),
        ("digits", c_int32),
    )


class Product(ctypes.Structure):
    """pl_product."""

    _fields_ = (
        ("linear", ctypes.POINTER(Linear)),
        ("x", ctypes.POINTER(Quantised)),
        ("rows", c_int32),
        ("epilogue", c_int32),
        ("out", ctypes.c_void_p),
        ("stride", c_int32),
    )


STORE, ADD, SILU_MUL = range(3)


def function(kernels: Kernels, name: str) -> Callable[..., Any]:
    """One that Python does not call otherwise."""
    path = kernels_path()
    assert path is not None
    return ctypes.CDLL(str(path))[f"{name}_{ENDINGS[kernels.instructions]}"]


class Factor:
    """Rows as the kernels quantise them."""

    def __init__(self, kernels: Kernels, x: Tensor, digits: int) -> None:
        rows, size = x.shape
        stride = -(-size // 16) * 16
        self._bytes = torch.zeros(rows * digits * stride * 2, dtype=torch.uint8)  # at most 2 bytes each
        self.scales = torch.zeros(rows, digits)
        self.sums = torch.zeros(rows, digits, dtype=torch.int32)
        self.struct = Quantised(self._bytes.data_ptr(), self.scales.data_ptr(), self.sums.data_ptr(), stride, digits)
        quantise = function(kernels, "pl_quantise_row")
        for row in range(rows):
            quantise(ctypes.c_void_p(x[row].data_ptr()), size, ctypes.byref(self.struct), row)


def product(
    kernels: Kernels,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    digits: int = 1,
    epilogue: int = STORE,
    threads: int = 2,
) -> tuple[Tensor, Factor]:
    """`x` (T, in) float32, `weight` int8 (out, in), `scale` (out,) -> (T, out) added to ones, or half of that."""
    factor = Factor(kernels, x, digits)
    packed = pack_rows(weight)
    address = None if bias is None else bias.data_ptr()
    linear = Linear(packed.data_ptr(), scale.data_ptr(), address, len(weight), x.shape[1])
    columns = len(weight) // 2 if epilogue == SILU_MUL else len(weight)
    out = torch.ones(len(x) + 1, columns)  # with a row behind that nobody may touch
    work = Product(ctypes.pointer(linear), ctypes.pointer(factor.struct), len(x), epilogue, out.data_ptr(), columns)
    for item in range(function(kernels, "pl_product_items")(ctypes.byref(work), threads)):
        function(kernels, "pl_product_item")(ctypes.byref(work), threads, item)
    assert torch.equal(out[-1], torch.ones(columns))
    return out[:-1], factor


def extreme(rows: int, columns: int, seed: int) -> Tensor:
    """Whole numbers in [-127, 127], many at the ends, 127 in each row: they are quantised to themselves."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-127, 128, (rows, columns), generator=generator)
    ends = torch.randint(0, 3, (rows, columns), generator=generator)
    values = torch.where(ends == 0, 127 * (1 - 2 * (values & 1)), values)
    values[:, 0] = 127
    return values


@each_set
@settings(max_examples=60)
@given(rows=st.integers(1, 19), inputs=st.integers(1, 90), outputs=st.integers(1, 150), seed=st.integers(0, 999))
def test_sums_of_products_are_exact(kernels: Kernels, rows: int, inputs: int, outputs: int, seed: int) -> None:
    x, weight = extreme(rows, inputs, seed), extreme(outputs, inputs, seed + 1)
    found, factor = product(kernels, x.float(), weight.to(torch.int8), torch.ones(outputs))
    assert torch.equal(factor.scales, torch.ones(rows, 1))
    assert torch.equal(found.long(), x @ weight.T)


@each_set
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1)])
def test_sums_of_the_largest_products_are_exact(kernels: Kernels, signs: tuple[int, int]) -> None:
    x, weight = torch.full((5, 1536), 127.0) * signs[0], torch.full((33, 1536), 127 * signs[1], dtype=torch.int8)
    found, _ = product(kernels, x, weight, torch.ones(33))
    assert torch.equal(found, torch.full((5, 33), 1536.0 * 127 * 127 * signs[0] * signs[1]))


@each_set
@settings(max_examples=30)
@given(rows=st.integers(1, 9), inputs=st.integers(1, 70), outputs=st.integers(1, 100), seed=st.integers(0, 999))
def test_what_a_digit_leaves_over_the_next_one_takes(
    kernels: Kernels, rows: int, inputs: int, outputs: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=generator)
    weight = extreme(outputs, inputs, seed).to(torch.int8)
    scale, bias = torch.rand(outputs, generator=generator), torch.randn(outputs, generator=generator)
    one, _ = product(kernels, x, weight, scale, bias)
    two, factor = product(kernels, x, weight, scale, bias, digits=2)
    exact = x.double() @ weight.double().T * scale + bias
    steps = factor.scales.double() / 2 * 1.001
    reach = weight.double().abs().sum(dim=1) * scale
    assert ((one - exact).abs() <= steps[:, :1] * reach + 1e-4 * (1 + exact.abs())).all()
    assert ((two - exact).abs() <= steps[:, 1:] * reach + 1e-4 * (1 + exact.abs())).all()


@each_set
@pytest.mark.parametrize(("inner", "rows"), [(16, 1), (48, 3), (80, 7), (16, 130)])
def test_gates_and_sums_go_where_they_belong(kernels: Kernels, inner: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(rows, 40, generator=generator), extreme(2 * inner, 40, 1).to(torch.int8)
    scale = torch.rand(2 * inner, generator=generator) / 100
    plain, _ = product(kernels, x, weight, scale)
    added, _ = product(kernels, x, weight, scale, epilogue=ADD, threads=5)
    assert torch.equal(added, plain + 1)
    gated, _ = product(kernels, x, weight, scale, epilogue=SILU_MUL, threads=3)
    gate, up = plain.view(rows, -1, 2, 16).unbind(dim=2)
    torch.testing.assert_close(gated, (torch.nn.functional.silu(gate) * up).reshape(rows, inner), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    if COMPILER is None:
        pytest.skip("no C compiler")
    return compile_plain(tmp_path_factory.mktemp("plain"))


def steps(decoder: NativeDecoder, vocab: int) -> Tensor:
    """Logits of a prompt, of chunks beside another sequence, and of single tokens."""
    tokens = [i * 7 % vocab for i in range(161)]
    logits = [decoder.forward(tokens, [(161, 0, table(0))], list(range(161))).clone()]
    spans: list[Span] = [(5, 161, table(0)), (1, 0, table(1)), (33, 0, table(2))]
    logits.append(decoder.forward([i * 5 % vocab for i in range(39)], spans, list(range(39))).clone())
    logits.append(decoder.forward([1, 0], [(1, 166, table(0)), (1, 33, table(2))], [1, 0]).clone())
    return torch.cat(logits)


@each_set
@pytest.mark.parametrize(
    "shape",
    [(100, 48, 2, 1, 128, 300), (31, 16, 1, 5, 80, 1001), (63, 176, 3, 7, 48, 17), (40, 32, 1, 48, 16, 259),
     (17, 16, 5, 1, 256, 2), (576, 1536, 3, 3, 64, 100)],
)  # fmt: skip
def test_logits_are_those_of_plain_c_to_the_bit(kernels: Kernels, plain: Kernels, shape: tuple[int, ...]) -> None:
    config = shaped(*shape)
    torch.manual_seed(0)
    tensors = {}
    for parameter in parameters(config):
        for name, size in parameter.stored.items():
            tensors[name] = torch.randn(size) * (0.2 if len(size) > 1 else 1.0) + (parameter.kind == "norm")
    quantised = dict(quantised_tensors(config, tensors.items()))
    found, expected = (
        steps(
            NativeDecoder(
                config, quantised, num_blocks=NUM_BLOCKS, max_positions=512, max_rows=200, threads=2, kernels=each
            ),
            config.vocab_size,
        )
        for each in (kernels, plain)
    )
    assert found.isfinite().all()
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


@each_set
@settings(max_examples=30)
@given(data=st.data(), vocab=st.integers(1, 130))
def test_only_banned_tokens_are_masked(kernels: Kernels, data: st.DataObject, vocab: int) -> None:
    words = -(-vocab // 32)
    masks = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=2 * words, max_size=2 * words))
    logits = torch.zeros(4, vocab)
    rows, bits = (c_int32 * 2)(2, 0), (ctypes.c_uint32 * len(masks))(*masks)
    kernels.mask_rows(logits.data_ptr(), vocab, ctypes.addressof(rows), 2, ctypes.addressof(bits))
    for row in range(4):
        for token in range(vocab):
            is_allowed = row not in (2, 0) or masks[(row == 0) * words + token // 32] >> token % 32 & 1
            assert logits[row, token] == (0.0 if is_allowed else float("-inf"))
