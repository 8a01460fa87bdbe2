"""Attention over the paged KV cache by gathering pages and calling `scaled_dot_product_attention`.

Runs on every device. A sequence's result does not depend on what shares its step: decoding sequences are grouped by
context length rounded up to `TILE`, prompts are computed in tiles of `TILE` rows at absolute positions, and every
kernel call has a shape that follows from the sequence alone.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch user knows)
from torch import Tensor

from handler.engine.kv_cache import KvCache
from handler.engine.step import Chunk

TILE = 128
"""Rows of a prompt tile, and the step by which context lengths are rounded up, in tokens."""

_ALIGNED_ROWS = 8
"""The CPU kernel's scratch memory of a thread lies behind that of the one before. With fewer float32 rows its start is
not aligned to a cache line for every thread, and the matrix product rounds differently there: a sequence's bits would
depend on its place in the batch."""


class Tile(msgspec.Struct, frozen=True):
    """Query rows `[first, last)` of the step, as N sequences of equal row count, with their pages and masks.

    block_tables: (N, P). masks: by sliding window (None for full attention), each (N, 1, rows, P * block_size), added
    to the scores.
    """

    first: int
    last: int
    block_tables: Tensor
    masks: dict[int | None, Tensor]


class PagedAttention:
    """Plans the tiles of a step once, then attends layer by layer."""

    def __init__(
        self, windows: tuple[int | None, ...], block_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._windows = windows
        self._kinds = set(windows)
        self._block_size = block_size
        self._device = device
        self._dtype = dtype

    def order(self, batch: list[Chunk]) -> list[Chunk]:
        """The batch with decoding sequences first, those of equal padded context side by side."""
        return sorted(batch, key=lambda chunk: (chunk.length > 1, _padded(chunk.start + chunk.length)))

    def plan(self, batch: list[Chunk]) -> list[Tile]:
        """Tiles that cover the rows of `batch`, which must come from `order`."""
        tiles: list[Tile] = []
        row = 0
        decoding = [chunk for chunk in batch if chunk.length == 1]
        for padded, group in groupby(decoding, key=lambda chunk: _padded(chunk.start + 1)):
            chunks = list(group)
            tiles.append(self._tile(row, padded, [(chunk, chunk.start, chunk.start + 1) for chunk in chunks]))
            row += len(chunks)
        for chunk in batch[len(decoding) :]:
            start, end = chunk.start, chunk.start + chunk.length
            while start < end:
                stop = min(end, (start // TILE + 1) * TILE)
                tiles.append(self._tile(row, _padded(stop), [(chunk, start, stop)]))
                row += stop - start
                start = stop
        return tiles

    def attend(
        self,
        layer: int,
        queries: Tensor,
        cache: KvCache,
        tiles: list[Tile],
        *,
        scale: float | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """`queries` (T, num_heads, head_dim) -> (T, num_heads * head_dim); keys of this step are in the cache.

        `scale` of the scores is `head_dim ** -0.5` where it is None; `softcap` bounds them (Gemma 2, arXiv:2408.00118).
        """
        window = self._windows[layer]
        parts = []
        for tile in tiles:
            keys, values = cache.gather(layer, tile.block_tables)
            rows = queries[tile.first : tile.last]
            n = tile.block_tables.shape[0]
            mask = tile.masks[window]
            if len(rows) == n and softcap is None:
                parts.append(_attend_single(rows, keys, values, mask, scale))
                continue
            rows = rows.view(n, -1, *rows.shape[1:]).transpose(1, 2)  # (N, num_heads, rows, head_dim)
            if softcap is None:
                out = F.scaled_dot_product_attention(rows, keys, values, mask, scale=scale, enable_gqa=True)
            else:
                out = _attend_softcapped(rows, keys, values, mask, scale, softcap)
            parts.append(out.transpose(1, 2).reshape(tile.last - tile.first, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _tile(self, row: int, padded: int, spans: list[tuple[Chunk, int, int]]) -> Tile:
        pages = padded // self._block_size
        tables = [_padded_table(chunk.sequence.block_table, pages) for chunk in map(itemgetter(0), spans)]
        starts = torch.tensor([start for _, start, _ in spans])
        rows = spans[0][2] - spans[0][1]
        positions = (starts[:, None] + torch.arange(rows))[:, None, :, None]  # (N, 1, rows, 1)
        keys = torch.arange(padded)
        masks = {}
        for window in self._kinds:
            visible = keys <= positions
            if window is not None:
                visible &= keys > positions - window
            mask = torch.zeros(visible.shape, dtype=self._dtype).masked_fill_(~visible, float("-inf"))
            masks[window] = mask.to(self._device, non_blocking=True)
        block_tables = torch.tensor(tables, dtype=torch.int64).to(self._device, non_blocking=True)
        return Tile(row, row + len(spans) * rows, block_tables, masks)


def _attend_single(rows: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """One query of each sequence: `rows` (N, num_heads, head_dim) -> (N, num_heads * head_dim).

    The query heads that share keys stand side by side as rows, filled up to a multiple of `_ALIGNED_ROWS`.
    """
    n, num_heads, head_dim = rows.shape
    num_kv_heads = keys.shape[1]
    num_rows = num_heads // num_kv_heads
    grouped = rows.view(n, num_kv_heads, num_rows, head_dim)
    grouped = F.pad(grouped, (0, 0, 0, -num_rows % _ALIGNED_ROWS))
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return out[:, :, :num_rows].reshape(n, num_heads * head_dim)


def _attend_softcapped(
    rows: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float | None, softcap: float
) -> Tensor:
    """What no kernel of torch does: scores bounded by `softcap * tanh(scores / softcap)` before the mask.

    `rows` (N, num_heads, rows, head_dim) -> the same shape.
    """
    scale = rows.shape[-1] ** -0.5 if scale is None else scale
    grouped = rows.reshape(
        len(rows), keys.shape[1], -1, *rows.shape[2:]
    )  # (N, num_kv_heads, query heads of each, rows, head_dim)
    scores = grouped @ keys.unsqueeze(2).transpose(-1, -2) * scale
    scores = torch.tanh(scores / softcap) * softcap + mask.unsqueeze(1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    return (weights @ values.unsqueeze(2)).flatten(1, 2)


def _padded(tokens: int) -> int:
    return -(-tokens // TILE) * TILE


def _padded_table(block_table: list[int], pages: int) -> list[int]:
    return block_table[:pages] + [0] * (pages - len(block_table))
