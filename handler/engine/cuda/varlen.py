"""Attention by `torch.nn.attention.varlen`, for decoding rows and prompt chunks.

Over block tables where torch's has them (2.13 has, 2.11 has not), with contexts that are never split (`num_splits=1`):
the kernel would otherwise choose by the batch, and so would the bits. Else over the gathered keys of prompt chunks.
"""

from __future__ import annotations

import itertools

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


class GatheredVarlen:
    """A `PromptKernel` that lays the chunks' keys end to end first. Owned by the engine thread of one device."""

    def __init__(self) -> None:
        self._step: tuple[Prompts, Tensor, Tensor] | None = None

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, prompts: Prompts, window: int | None) -> Tensor:
        """As `PromptKernel`. Where keys lie is found once a step, in its first layer."""
        if self._step is None or self._step[0] is not prompts:
            self._step = (prompts, *_key_rows(prompts, keys.shape[1]))
        _, rows, first_keys = self._step
        out = varlen_attn(
            queries,
            keys.flatten(0, 1)[rows],
            values.flatten(0, 1)[rows],
            prompts.first_rows,
            first_keys,
            max(num_rows for num_rows, _ in prompts.spans),
            max(end for _, end in prompts.spans),
            window_size=(-1 if window is None else window - 1, 0),
        )
        assert isinstance(out, Tensor)
        return out.flatten(1)


def _key_rows(prompts: Prompts, block_tokens: int) -> tuple[Tensor, Tensor]:
    """Rows of the cache that hold the chunks' keys (K,) int64, and where each chunk's begin (P + 1,) int32."""
    parts = []
    for table, (_, end) in zip(prompts.tables.long(), prompts.spans, strict=True):
        position = torch.arange(end, device=table.device)
        parts.append(table[position // block_tokens] * block_tokens + position % block_tokens)
    first_keys = list(itertools.accumulate((end for _, end in prompts.spans), initial=0))
    return torch.cat(parts), torch.tensor(first_keys, dtype=torch.int32).to(prompts.tables.device)


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
