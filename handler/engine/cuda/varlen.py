"""Attention by `torch.nn.attention.varlen` over block tables, for decoding rows and prompt chunks.

Never splits a context (`num_splits=1`): the kernel would otherwise choose by the batch, and so would the bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from handler.engine.cuda.attention import DecodeRows, Prompts

BLOCK_TOKENS = 256
"""FlashAttention's pages are multiples of it."""


def varlen_decode(queries: Tensor, keys: Tensor, values: Tensor, rows: DecodeRows, window: int | None) -> Tensor:
    """`DecodeKernel`: every row is a sequence of one query."""
    first_rows = torch.arange(len(queries) + 1, dtype=torch.int32, device=queries.device)
    longest = rows.tables.shape[1] * keys.shape[1]
    return _attend(queries, keys, values, first_rows, rows.lengths, rows.tables, 1, longest, window)


def varlen_prompts(queries: Tensor, keys: Tensor, values: Tensor, prompts: Prompts, window: int | None) -> Tensor:
    """`PromptKernel`: every chunk is a sequence whose last query sees all keys."""
    most_rows = max(num_rows for num_rows, _ in prompts.spans)
    longest = max(end for _, end in prompts.spans)
    return _attend(queries, keys, values, prompts.first_rows, prompts.ends, prompts.tables, most_rows, longest, window)


def _attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    first_rows: Tensor,
    lengths: Tensor,
    tables: Tensor,
    most_rows: int,
    longest: int,
    window: int | None,
) -> Tensor:
    out = varlen_attn(
        queries,
        keys,
        values,
        first_rows,
        None,  # where keys begin is said by the block tables
        most_rows,
        longest,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
        seqused_k=lengths,
        block_table=tables,
        num_splits=1,
    )
    assert isinstance(out, Tensor)
    return out.flatten(1)
