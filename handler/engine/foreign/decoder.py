"""The decoder's surface over a model of transformers. Owned by the engine thread, as our own decoder is.

All rows of a step are one row of transformers' batch. Attention alone knows which sequence a row belongs to: it writes
keys and values to the paged cache and attends over that, and everything else treats each row by itself.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import torch.nn.functional as F  # noqa: N812  (the name every torch user knows)
from torch import Tensor, nn

from handler.engine.attention import PagedAttention, Tile
from handler.engine.foreign.interface import attach
from handler.engine.foreign.split import SplitModel
from handler.engine.kv_cache import KvCache


class _Step(msgspec.Struct, frozen=True):
    """What the attention of a running step needs."""

    slots: Tensor
    tiles: list[Tile]
    attention: PagedAttention
    cache: KvCache


class ForeignDecoder:
    """Token ids in, hidden states and logits out. `attentions` are the model's modules in the order of the layers."""

    def __init__(self, model: SplitModel, attentions: list[nn.Module]) -> None:
        for layer, module in enumerate(attentions):
            attach(module, partial(self._attend, layer))
        self._model = model
        self._step: _Step | None = None

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        tiles: list[Tile],
        attention: PagedAttention,
        cache: KvCache,
    ) -> Tensor:
        """Run all layers, writing this step's keys and values to `slots` of the cache.

        `tokens`, `positions`, `slots` (T,) int64 -> hidden states (T, hidden_size).
        """
        self._step = _Step(slots, tiles, attention, cache)
        try:
            return self._model.hidden(tokens, positions)
        finally:
            self._step = None

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden` (R, hidden_size) -> float32 logits (R, vocab_size)."""
        return self._model.logits(hidden).float()

    def _attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, arguments: dict[str, Any]
    ) -> Tensor:
        step = self._step
        assert step is not None
        assert mask is None
        scale = arguments.get("scaling")
        scale = keys.shape[-1] ** -0.5 if scale is None else scale
        step.cache.write(layer, _as_cached(keys, step.cache), _as_cached(values, step.cache), step.slots)
        out = step.attention.attend(
            layer,
            _as_cached(queries, step.cache),
            step.cache,
            step.tiles,
            scale=scale,
            softcap=arguments.get("softcap"),
        )
        _, num_heads, num_rows, _ = queries.shape
        return out.view(1, num_rows, num_heads, -1)[..., : values.shape[-1]].to(queries.dtype)


def _as_cached(part: Tensor, cache: KvCache) -> Tensor:
    """`part` (1, heads, T, size) -> (T, heads, head_dim), zeros at the end where keys and values differ in size."""
    like = cache.keys[0]
    return F.pad(part[0].transpose(0, 1), (0, like.shape[-1] - part.shape[-1])).to(like.dtype)
