"""Residual addition and RMS norm in one pass over a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add_norm(stream, update, weight, normed, total, width, eps, HAS_UPDATE: tl.constexpr, BLOCK: tl.constexpr):
    """One program a row. The sum is rounded to the row's dtype before its norm, as torch does in two operations."""
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(stream + row + columns, mask=inside, other=0.0)
    if HAS_UPDATE:
        x = (x.to(tl.float32) + tl.load(update + row + columns, mask=inside, other=0.0).to(tl.float32)).to(x.dtype)
        tl.store(total + row + columns, x, mask=inside)
    x = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / width + eps)
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row + columns, (x * scale * w).to(normed.dtype.element_ty), mask=inside)


def add_norm(stream: Tensor, update: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Norm of `stream + update`, and that sum; all (T, C) contiguous. Without an update the sum is `stream` itself."""
    num_rows, width = stream.shape
    normed = torch.empty_like(stream)
    total = stream if update is None else torch.empty_like(stream)
    block = triton.next_power_of_2(width)
    _add_norm[(num_rows,)](
        stream,
        stream if update is None else update,
        weight,
        normed,
        total,
        width,
        eps,
        HAS_UPDATE=update is not None,
        BLOCK=block,
        num_warps=min(max(block // 512, 1), 16),
    )
    return normed, total
