"""Paged attention of single queries: each sequence's context is read in splits side by side, then merged.

Where a context is split follows from its own length alone, and each split is summed in the same order, so a row has
the same bits whatever else is in the batch (flash decoding, after arXiv:2205.14135).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 64
"""Keys that a program reads at a time."""
_MAX_SPLITS = 32
"""A longer context has longer splits, not more of them: the grid of a captured graph must hold them all."""
_MIN_SPLIT_TILES = 2
_PROGRAMS = 2048
"""More do not run side by side on a large GPU, and in a short context most would only come and go: where rows and heads
are that many already, one program takes all splits of a context in turn."""
_MIN_DOT_ROWS = 16
"""The matrix units take no fewer rows; the query heads that share keys are filled up to it."""


@triton.jit
def _span(length, WINDOW: tl.constexpr, TILE: tl.constexpr, MAX_SPLITS: tl.constexpr, MIN_TILES: tl.constexpr):
    """First visible key, first tile and tiles per split of a context."""
    first = 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0)
    first_tile = first // TILE
    num_tiles = (length + TILE - 1) // TILE - first_tile
    return first, first_tile, tl.maximum((num_tiles + MAX_SPLITS - 1) // MAX_SPLITS, MIN_TILES)


@triton.jit
def _attend_split(
    queries,
    key_cache,
    value_cache,
    tables,
    lengths,
    partial,
    maxima,
    sums,
    scale,
    width,
    num_kv_heads,
    BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    MIN_TILES: tl.constexpr,
):
    """Attention of a head's GROUP queries over one split's keys. A program takes every so many-th one."""
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    length = tl.load(lengths + row)
    first, first_tile, split_tiles = _span(length, WINDOW, TILE, MAX_SPLITS, MIN_TILES)
    num_splits = ((length + TILE - 1) // TILE - first_tile + split_tiles - 1) // split_tiles
    group = tl.arange(0, ROWS)
    columns = tl.arange(0, PADDED_DIM)
    query_mask = (group[:, None] < GROUP) & (columns[None, :] < DIM)
    head = row * num_kv_heads * GROUP + kv_head * GROUP + group  # (ROWS,)
    for split in range(tl.program_id(2), num_splits, tl.num_programs(2)):
        begin = (first_tile + split * split_tiles) * TILE
        end = tl.minimum(begin + split_tiles * TILE, length)
        query = tl.load(queries + head[:, None] * DIM + columns[None, :], mask=query_mask, other=0.0)
        maximum = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        result = tl.zeros((ROWS, PADDED_DIM), tl.float32)
        for start in range(begin, end, TILE):
            position = start + tl.arange(0, TILE)
            visible = (position < end) & (position >= first)
            block = tl.load(tables + row * width + position // BLOCK_SIZE, mask=visible, other=0).to(tl.int64)
            slot = block * BLOCK_SIZE + position % BLOCK_SIZE
            offset = (slot * num_kv_heads + kv_head)[:, None] * DIM + columns[None, :]  # (TILE, PADDED_DIM)
            mask = visible[:, None] & (columns[None, :] < DIM)
            key = tl.load(key_cache + offset, mask=mask, other=0.0)
            score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
            score = tl.where(visible[None, :], score, float("-inf"))
            higher = tl.maximum(maximum, tl.max(score, axis=1))
            weight = tl.exp2(score - higher[:, None])
            shrink = tl.exp2(maximum - higher)
            total = total * shrink + tl.sum(weight, axis=1)
            value = tl.load(value_cache + offset, mask=mask, other=0.0)
            result = result * shrink[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
            maximum = higher
        place = head * MAX_SPLITS + split
        tl.store(partial + place[:, None] * DIM + columns[None, :], result, mask=query_mask)
        tl.store(maxima + place, maximum, mask=group < GROUP)
        tl.store(sums + place, total, mask=group < GROUP)


@triton.jit
def _merge_splits(
    partial,
    maxima,
    sums,
    lengths,
    out,
    num_heads,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    MIN_TILES: tl.constexpr,
):
    """One program a sequence and query head: its splits weighted by what their maxima were."""
    row = tl.program_id(0).to(tl.int64)
    head = row * num_heads + tl.program_id(1)
    length = tl.load(lengths + row)
    _, first_tile, split_tiles = _span(length, WINDOW, TILE, MAX_SPLITS, MIN_TILES)
    split = tl.arange(0, MAX_SPLITS)
    columns = tl.arange(0, PADDED_DIM)
    written = (first_tile + split * split_tiles) * TILE < length
    maximum = tl.load(maxima + head * MAX_SPLITS + split, mask=written, other=float("-inf"))
    weight = tl.exp2(maximum - tl.max(maximum, axis=0))
    total = tl.sum(weight * tl.load(sums + head * MAX_SPLITS + split, mask=written, other=0.0), axis=0)
    mask = written[:, None] & (columns[None, :] < DIM)
    parts = tl.load(partial + (head * MAX_SPLITS + split)[:, None] * DIM + columns[None, :], mask=mask, other=0.0)
    merged = tl.sum(parts * weight[:, None], axis=0) / total
    tl.store(out + head * DIM + columns, merged.to(out.dtype.element_ty), mask=columns < DIM)


def decode_attention(
    queries: Tensor, key_cache: Tensor, value_cache: Tensor, tables: Tensor, lengths: Tensor, window: int | None
) -> Tensor:
    """One query of each sequence over its `lengths` keys, the last of which is its own.

    Args:
        queries: (R, num_heads, head_dim), contiguous.
        key_cache: (num_blocks, block_size, num_kv_heads, head_dim), as is `value_cache`.
        value_cache: see there.
        tables: (R, pages) int32.
        lengths: (R,) int32, at least 1.
        window: how many keys are visible at most; None for all.

    Returns:
        (R, num_heads * head_dim).
    """
    num_rows, num_heads, dim = queries.shape
    block_size, num_kv_heads = key_cache.shape[1:3]
    group = num_heads // num_kv_heads
    pages = tables.shape[1]
    reach = pages * block_size if window is None else min(window + _TILE, pages * block_size)
    num_splits = min(_MAX_SPLITS, -(-reach // (_TILE * _MIN_SPLIT_TILES)))
    num_programs = min(num_splits, max(1, _PROGRAMS // (num_rows * num_kv_heads)))
    partial = queries.new_empty(num_rows, num_heads, _MAX_SPLITS, dim, dtype=torch.float32)
    maxima, sums = queries.new_empty(2, num_rows, num_heads, _MAX_SPLITS, dtype=torch.float32)
    out = torch.empty_like(queries)
    shape = {
        "DIM": dim,
        "PADDED_DIM": max(triton.next_power_of_2(dim), 16),
        "WINDOW": window or 0,
        "TILE": _TILE,
        "MAX_SPLITS": _MAX_SPLITS,
        "MIN_TILES": _MIN_SPLIT_TILES,
    }
    _attend_split[(num_rows, num_kv_heads, num_programs)](
        queries,
        key_cache,
        value_cache,
        tables,
        lengths,
        partial,
        maxima,
        sums,
        math.log2(math.e) / math.sqrt(dim),  # so that exp2 serves for exp
        pages,
        num_kv_heads,
        BLOCK_SIZE=block_size,
        GROUP=group,
        ROWS=max(triton.next_power_of_2(group), _MIN_DOT_ROWS),
        **shape,
    )
    _merge_splits[(num_rows, num_heads)](partial, maxima, sums, lengths, out, num_heads, **shape, num_warps=2)
    return out.view(num_rows, num_heads * dim)
