"""The likeliest token of each row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


@triton.jit
def _argmax_part(logits, maxima, indices, width, num_parts, BLOCK: tl.constexpr):
    """One program a row and block of columns; of equal logits the first counts."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    columns = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row * width + columns, mask=columns < width, other=float("-inf")).to(tl.float32)
    maximum = tl.max(x, axis=0)
    tl.store(maxima + row * num_parts + part, maximum)
    tl.store(indices + row * num_parts + part, tl.min(tl.where(x == maximum, columns, width), axis=0))


@triton.jit
def _argmax_of_parts(maxima, indices, out, num_parts, width, BLOCK: tl.constexpr):
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, BLOCK)
    x = tl.load(maxima + row * num_parts + part, mask=part < num_parts, other=float("-inf"))
    index = tl.load(indices + row * num_parts + part, mask=part < num_parts, other=0)
    first = tl.min(tl.where(x == tl.max(x, axis=0), index, width), axis=0)
    tl.store(out + row, tl.minimum(first, width - 1).to(tl.int64))  # a row of NaN has no maximum, but a valid token


def argmax(logits: Tensor) -> Tensor:
    """`logits` (R, vocab_size) contiguous -> (R,) int64."""
    num_rows, width = logits.shape
    num_parts = triton.cdiv(width, _BLOCK)
    maxima = logits.new_empty(num_rows, num_parts, dtype=torch.float32)
    indices = logits.new_empty(num_rows, num_parts, dtype=torch.int32)
    out = logits.new_empty(num_rows, dtype=torch.int64)
    _argmax_part[(num_rows, num_parts)](logits, maxima, indices, width, num_parts, BLOCK=_BLOCK, num_warps=8)
    parts = triton.next_power_of_2(num_parts)
    _argmax_of_parts[(num_rows,)](maxima, indices, out, num_parts, width, BLOCK=parts, num_warps=1)
    return out
