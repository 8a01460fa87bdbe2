"""Head norm, rotation and cache write in one pass over the heads of a step."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _load_head(head, weight, columns, inside, dim, eps, HAS_NORM: tl.constexpr):
    """A head in float32 and itself with its halves swapped, both after the head norm if there is one."""
    swapped = (columns + dim // 2) % dim
    x = tl.load(head + columns, mask=inside, other=0.0)
    partner = tl.load(head + swapped, mask=inside, other=0.0)
    dtype = x.dtype
    x, partner = x.to(tl.float32), partner.to(tl.float32)
    if HAS_NORM:
        scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / dim + eps)
        x = (x * scale * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)).to(dtype).to(tl.float32)
        partner_weight = tl.load(weight + swapped, mask=inside, other=0.0).to(tl.float32)
        partner = (partner * scale * partner_weight).to(dtype).to(tl.float32)
    return x, partner


@triton.jit
def _rotate_and_store(
    heads,
    query_weight,
    key_weight,
    cos,
    sin,
    slots,
    queries,
    key_cache,
    value_cache,
    num_heads,
    num_kv_heads,
    dim,
    eps,
    HAS_NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row and head: queries first, then keys, then values, as the fused projection lays them out."""
    row = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    head = heads + (row * (num_heads + 2 * num_kv_heads) + index) * dim
    slot = tl.load(slots + row)
    if index < num_heads + num_kv_heads:
        # The sine is negative for the first half (see RotaryEmbedding), so that both halves are computed alike.
        c = tl.load(cos + row * dim + columns, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + row * dim + columns, mask=inside, other=0.0).to(tl.float32)
        if index < num_heads:
            x, partner = _load_head(head, query_weight, columns, inside, dim, eps, HAS_NORM)
            target = queries + (row * num_heads + index) * dim
        else:
            x, partner = _load_head(head, key_weight, columns, inside, dim, eps, HAS_NORM)
            target = key_cache + (slot * num_kv_heads + index - num_heads) * dim
        tl.store(target + columns, (x * c + partner * s).to(queries.dtype.element_ty), mask=inside)
    else:
        value = tl.load(head + columns, mask=inside, other=0.0)
        target = value_cache + (slot * num_kv_heads + index - num_heads - num_kv_heads) * dim
        tl.store(target + columns, value, mask=inside)


def rotate_and_store(
    heads: Tensor,
    head_weights: tuple[Tensor, Tensor] | None,
    eps: float,
    rope_rows: tuple[Tensor, Tensor],
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
) -> Tensor:
    """Write a step's keys and values to `slots` (T,) int64 of one layer's cache and return the rotated queries.

    Args:
        heads: (T, num_heads + 2 * num_kv_heads, head_dim), contiguous.
        head_weights: of the query and the key norm.
        eps: of these norms.
        rope_rows: cosine and signed sine, each (T, 1, head_dim).
        key_cache: (num_blocks, block_size, num_kv_heads, head_dim), as is `value_cache`.
        value_cache: see there.
        slots: block * block_size + offset of each row.

    Returns:
        (T, num_heads, head_dim).
    """
    num_rows, total, dim = heads.shape
    num_kv_heads = key_cache.shape[2]
    num_heads = total - 2 * num_kv_heads
    queries = heads.new_empty(num_rows, num_heads, dim)
    query_weight, key_weight = head_weights or (heads, heads)
    block = triton.next_power_of_2(dim)
    _rotate_and_store[(num_rows, total)](
        heads,
        query_weight,
        key_weight,
        *rope_rows,
        slots,
        queries,
        key_cache,
        value_cache,
        num_heads,
        num_kv_heads,
        dim,
        eps,
        HAS_NORM=head_weights is not None,
        BLOCK=block,
        num_warps=1,
    )
    return queries
