"""Attention over the paged cache from block tables on the device: single rows and prompt chunks.

Each of the two has a kernel of its own, so that a row is computed alike whatever shares its step. `gather_decode` and
`gather_prompts` are plain torch and run everywhere; they also say what the kernels compute. Which kernels a device gets
is decided in `kernel_set.py`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch user knows)
from torch import Tensor

from handler.engine.kv_cache import KvCache


class DecodeRows(msgspec.Struct, frozen=True):
    """Rows that are one token of a sequence each: block tables (D, pages) and context lengths (D,), both int32."""

    tables: Tensor
    lengths: Tensor


class Prompts(msgspec.Struct, frozen=True):
    """Chunks of prompts, one behind the other.

    Attributes:
        tables: (P, pages) int32.
        first_rows: (P + 1,) int32, where each chunk begins among the chunks' rows, and where the last ends.
        ends: (P,) int32, keys that the last row of each chunk sees.
        spans: (rows, end) of each chunk, as the host knows them.
    """

    tables: Tensor
    first_rows: Tensor
    ends: Tensor
    spans: list[tuple[int, int]]


class StepPlan(msgspec.Struct, frozen=True):
    """The rows of a step: `num_decode_rows` single ones first, prompt chunks behind them."""

    num_decode_rows: int
    decode: DecodeRows | None
    prompts: Prompts | None


class DecodeKernel(Protocol):
    """Attention of single rows."""

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, rows: DecodeRows, window: int | None, /
    ) -> Tensor:
        """`queries` (D, num_heads, head_dim) over one layer's cache -> (D, num_heads * head_dim)."""


class PromptKernel(Protocol):
    """Attention of prompt chunks."""

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, prompts: Prompts, window: int | None, /
    ) -> Tensor:
        """`queries` (T, num_heads, head_dim) over one layer's cache -> (T, num_heads * head_dim)."""


class PagedKernels:
    """Sends each part of a step to its kernel, layer by layer."""

    def __init__(self, windows: tuple[int | None, ...], decode: DecodeKernel, prompt: PromptKernel) -> None:
        self._windows = windows
        self._decode = decode
        self._prompt = prompt

    def attend(self, layer: int, queries: Tensor, cache: KvCache, plan: StepPlan) -> Tensor:
        """`queries` (T, num_heads, head_dim) -> (T, num_heads * head_dim); keys of this step are in the cache."""
        window, keys, values = self._windows[layer], cache.keys[layer], cache.values[layer]
        parts = []
        if plan.decode is not None:
            parts.append(self._decode(queries[: plan.num_decode_rows], keys, values, plan.decode, window))
        if plan.prompts is not None:
            parts.append(self._prompt(queries[plan.num_decode_rows :], keys, values, plan.prompts, window))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def gather_decode(queries: Tensor, keys: Tensor, values: Tensor, rows: DecodeRows, window: int | None) -> Tensor:
    """`DecodeKernel` in torch: reads whole block tables, whatever of them is in use."""
    position = torch.arange(rows.tables.shape[1] * keys.shape[1], device=queries.device)
    lengths = rows.lengths[:, None]
    visible = position < lengths
    if window is not None:
        visible &= position >= lengths - window
    out = F.scaled_dot_product_attention(
        queries.unsqueeze(2),
        _gather(keys, rows.tables),
        _gather(values, rows.tables),
        attn_mask=visible[:, None, None],
        enable_gqa=True,
    )
    return out.flatten(1)


def gather_prompts(queries: Tensor, keys: Tensor, values: Tensor, prompts: Prompts, window: int | None) -> Tensor:
    """`PromptKernel` in torch, chunk by chunk."""
    parts = []
    first = 0
    for index, (num_rows, end) in enumerate(prompts.spans):
        pages = -(-end // keys.shape[1])
        table = prompts.tables[index : index + 1, :pages]
        position = torch.arange(pages * keys.shape[1], device=queries.device)
        row = torch.arange(end - num_rows, end, device=queries.device)[:, None]
        visible = position <= row
        if window is not None:
            visible &= position > row - window
        chunk = queries[first : first + num_rows].transpose(0, 1).unsqueeze(0)  # (1, num_heads, rows, head_dim)
        out = F.scaled_dot_product_attention(
            chunk, _gather(keys, table), _gather(values, table), attn_mask=visible, enable_gqa=True
        )
        parts.append(out[0].transpose(0, 1).flatten(1))
        first += num_rows
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _gather(cache: Tensor, tables: Tensor) -> Tensor:
    """Pages of one layer's cache: (N, num_kv_heads, pages * block_size, head_dim)."""
    pages = cache.index_select(0, tables.flatten())
    return pages.view(len(tables), -1, *cache.shape[2:]).transpose(1, 2)
