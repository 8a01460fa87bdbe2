"""Runs a model without weights to see what its attention asks for, layer by layer.

What cannot be honoured is refused by name: an argument, a mask, a layer that does not attend. So nothing has to be
known of any one family.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor
from transformers import PreTrainedModel

from handler.engine.foreign.interface import MaskFunction, RecordedMask, attach
from handler.engine.foreign.refusal import Unsuitable
from handler.engine.foreign.split import SplitModel

_ROWS = 5
_HONOURED = frozenset({"scaling", "sliding_window", "softcap", "is_causal", "dropout", "position_ids"})


class AttentionCall(msgspec.Struct, frozen=True):
    """One layer as its attention was called.

    Attributes:
        module: name of the attention module in the model.
        num_kv_heads: heads of its keys and values.
        key_dim: elements of a key.
        value_dim: elements of a value.
        window: sliding window in tokens, None for full attention.
    """

    module: str
    num_kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None


class Rehearsal(msgspec.Struct, frozen=True):
    """What a pass through all layers showed: the calls in their order, and the number of logits."""

    calls: tuple[AttentionCall, ...]
    vocab_size: int


def rehearse(model: PreTrainedModel, context_tokens: int) -> Rehearsal:
    """Run `model`, which lies on the meta device, once.

    Raises:
        Unsuitable: its attention asks for what our cache and kernels do not do.
    """
    recorder = _Recorder(context_tokens)
    for name, module in model.named_modules():
        attach(module, partial(recorder.record, name))
    split = SplitModel(model)
    rows = torch.arange(_ROWS, device="meta")
    # With a mask of padding, of which there is none, transformers does not look for several sequences in the row.
    hidden = split.hidden(rows, rows, torch.ones(1, _ROWS, dtype=torch.int64, device="meta"))
    calls = recorder.calls
    names = {call.module for call in calls}
    num_layers = int(model.config.num_hidden_layers)
    if not len(calls) == len(names) == num_layers:
        raise Unsuitable(f"{len(calls)} calls of {len(names)} attention modules are made by its {num_layers} layers")
    if len({(call.num_kv_heads, call.key_dim, call.value_dim) for call in calls}) > 1:
        raise Unsuitable("its layers have heads of different number or size")
    return Rehearsal(tuple(calls), split.logits(hidden).shape[-1])


class _Recorder:
    """Notes each call of attention, or refuses it."""

    def __init__(self, context_tokens: int) -> None:
        self.calls: list[AttentionCall] = []
        self._context_tokens = context_tokens
        self._windows: dict[MaskFunction, int | None] = {}

    def record(
        self,
        module: str,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        arguments: dict[str, Any],
    ) -> Tensor:
        """Stand for the attention of `module`; what comes out has the right shape."""
        asked = {name for name, value in arguments.items() if value is not None and value is not False}
        if unknown := sorted(asked - _HONOURED):
            raise Unsuitable(f"its attention asks for {', '.join(unknown)}")
        if arguments.get("dropout"):
            raise Unsuitable("its attention asks for dropout")
        if arguments.get("is_causal") is False:
            raise Unsuitable("its attention is not causal")
        window = self._window(mask)
        stated = arguments.get("sliding_window")
        if stated is not None and stated < self._context_tokens and stated != window:
            raise Unsuitable(f"its attention states a sliding window of {stated} tokens, but its mask shows {window}")
        self.calls.append(AttentionCall(module, keys.shape[1], keys.shape[-1], values.shape[-1], window))
        return values.new_empty(1, queries.shape[2], queries.shape[1], values.shape[-1])

    def _window(self, mask: Tensor | None) -> int | None:
        if not isinstance(mask, RecordedMask) or mask.mask_function is None:
            raise Unsuitable("its attention has a mask of its own")
        if mask.mask_function not in self._windows:  # most layers share one
            self._windows[mask.mask_function] = window_of(mask.mask_function, self._context_tokens)
        return self._windows[mask.mask_function]


def window_of(mask_function: MaskFunction, context_tokens: int) -> int | None:
    """The sliding window that a mask stands for, None where every earlier token is seen.

    Raises:
        Unsuitable: a token sees others than itself and those right before it.
    """
    keys = torch.arange(context_tokens)
    last = context_tokens - 1
    window = int(_visible(mask_function, last, keys).sum())
    for query in {0, last // 2, max(0, window - 1), min(window, last), last}:
        expected = (keys <= query) & (keys > query - window)
        if not _visible(mask_function, query, keys).equal(expected):
            raise Unsuitable("its mask is neither causal nor a sliding window")
    return window if window < context_tokens else None


def _visible(mask_function: MaskFunction, query: int, keys: Tensor) -> Tensor:
    """Which of `keys` (K,) the token at position `query` sees: (K,) bool."""
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    visible = mask_function(zero, zero, zero + query, keys[None, None, None])
    return visible.expand(1, 1, 1, len(keys)).flatten()
