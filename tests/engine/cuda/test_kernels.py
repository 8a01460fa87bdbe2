"""Every Triton kernel says what plain torch says."""

from __future__ import annotations

import random as numbers

import pytest
import torch
from torch import Tensor

from handler.engine.cuda.attention import DecodeRows, gather_decode
from handler.engine.kernels import HeadNorms, RmsNorm, TorchKernels
from tests.engine.cuda.running import cache_of

pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds")

from handler.engine.cuda.kernels import decode
from handler.engine.cuda.kernels.argmax import argmax
from handler.engine.cuda.kernels.decode import decode_attention
from handler.engine.cuda.kernels.fused import TritonKernels

# Triton's interpreter has no bfloat16 in its matrix products.
DTYPES = [torch.float32, torch.bfloat16 if torch.cuda.is_available() else torch.float16]


def random(*shape: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Within one rounding of the dtype, which fused arithmetic may do at another place."""
    tolerance = 1e-5 if found.dtype == torch.float32 else 2**-7
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 64), (3, 576), (2, 4096)])
@pytest.mark.parametrize("has_update", [False, True])
def test_add_norm(rows: int, width: int, has_update: bool, dtype: torch.dtype, device: torch.device) -> None:
    stream = random(rows, width, seed=1, dtype=dtype, device=device)
    update = random(rows, width, seed=2, dtype=dtype, device=device) if has_update else None
    norm = RmsNorm(random(width, seed=3, dtype=dtype, device=device), 1e-5)
    normed, total = TritonKernels().add_norm(stream, update, norm)
    expected_normed, expected_total = TorchKernels().add_norm(stream, update, norm)
    assert torch.equal(total, expected_total)
    assert_close(normed, expected_normed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 96), (3, 1536), (2, 2048)])
def test_silu_mul(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
    gate_up = random(rows, 2 * width, seed=1, dtype=dtype, device=device) * 4
    assert_close(TritonKernels().silu_mul(gate_up), TorchKernels().silu_mul(gate_up))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(4, 2, 16), (3, 3, 24), (8, 1, 128)])
def test_rotate_and_store(
    num_heads: int, num_kv_heads: int, head_dim: int, has_norms: bool, dtype: torch.dtype, device: torch.device
) -> None:
    def make(*shape: int, seed: int) -> Tensor:
        return random(*shape, seed=seed, dtype=dtype, device=device)

    rows = 5
    heads = make(rows, num_heads + 2 * num_kv_heads, head_dim, seed=1)
    rope_rows = make(rows, 1, head_dim, seed=2), make(rows, 1, head_dim, seed=3)
    norms = HeadNorms(RmsNorm(make(head_dim, seed=4), 1e-6), RmsNorm(make(head_dim, seed=5), 1e-6))
    slots = torch.tensor([17, 3, 40, 41, 8], device=device)
    found, expected = (cache_of(num_kv_heads, head_dim, 8, dtype, device) for _ in range(2))
    arguments = heads, norms if has_norms else None, rope_rows
    queries = TritonKernels().rotate_and_store(*arguments, found, 1, slots)
    assert_close(queries, TorchKernels().rotate_and_store(*arguments, expected, 1, slots))
    assert_close(found.keys[1], expected.keys[1])
    assert torch.equal(found.values[1], expected.values[1])
    assert found.keys[1].any(dim=-1).sum() == rows * num_kv_heads
    assert not found.keys[0].any()
    assert not found.values[0].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 1, 70])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim", "block"), [(9, 3, 64, 32), (4, 4, 24, 16), (20, 1, 16, 256)]
)
def test_decode_attention(
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    block: int,
    window: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    lengths = [1, 64, 65, 130, 700]
    pages = -(-max(lengths) // block)
    keys, values = (
        random(40 + len(lengths) * pages, block, num_kv_heads, head_dim, seed=seed, dtype=dtype, device=device)
        for seed in (1, 2)
    )
    queries = random(len(lengths), num_heads, head_dim, seed=3, dtype=dtype, device=device)
    blocks = numbers.Random(0).sample(range(len(keys)), len(lengths) * pages)
    tables = torch.tensor(blocks, dtype=torch.int32, device=device).view(len(lengths), pages)
    rows = DecodeRows(tables, torch.tensor(lengths, dtype=torch.int32, device=device))
    found = decode_attention(queries, keys, values, tables, rows.lengths, window)
    assert_close(found, gather_decode(queries, keys, values, rows, window))
    for row in range(len(lengths)):
        alone = decode_attention(
            queries[row : row + 1], keys, values, tables[row : row + 1], rows.lengths[row : row + 1], window
        )
        assert torch.equal(alone[0], found[row]), "a row depends on its batch"


def test_long_contexts_are_split_no_further(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_MAX_SPLITS", 4)
    keys, values = (random(12, 64, 1, 16, seed=seed, dtype=torch.float32, device=device) for seed in (1, 2))
    queries = random(2, 1, 16, seed=3, dtype=torch.float32, device=device)
    tables = torch.arange(12, dtype=torch.int32, device=device).expand(2, -1).contiguous()
    rows = DecodeRows(tables, torch.tensor([765, 520], dtype=torch.int32, device=device))
    found = decode_attention(queries, keys, values, tables, rows.lengths, None)
    assert_close(found, gather_decode(queries, keys, values, rows, None))


@pytest.mark.parametrize("window", [None, 300])
def test_splits_are_the_same_however_many_programs_share_them(
    window: int | None, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, values = (random(24, 64, 2, 16, seed=seed, dtype=torch.float32, device=device) for seed in (1, 2))
    queries = random(2, 4, 16, seed=3, dtype=torch.float32, device=device)
    tables = torch.arange(24, dtype=torch.int32, device=device).view(2, 12)
    rows = DecodeRows(tables, torch.tensor([765, 70], dtype=torch.int32, device=device))
    found = decode_attention(queries, keys, values, tables, rows.lengths, window)
    assert_close(found, gather_decode(queries, keys, values, rows, window))
    for programs in (1, 2 * 2 * 3):
        monkeypatch.setattr(decode, "_PROGRAMS", programs)
        assert torch.equal(decode_attention(queries, keys, values, tables, rows.lengths, window), found)


@pytest.mark.parametrize(("rows", "width"), [(1, 5), (3, 4096), (2, 10000)])
def test_argmax(rows: int, width: int, device: torch.device) -> None:
    logits = random(rows, width, seed=rows, dtype=torch.float32, device=device)
    assert argmax(logits).tolist() == logits.argmax(dim=-1).tolist()
    logits[:, width // 2] = logits[:, width // 4] = 9.0
    assert argmax(logits).tolist() == [width // 4] * rows


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton's interpreter warns of NaN")
def test_a_row_of_nan_still_has_a_valid_token(device: torch.device) -> None:
    tokens = argmax(torch.full((2, 5000), float("nan"), device=device))
    assert all(0 <= token < 5000 for token in tokens.tolist())
