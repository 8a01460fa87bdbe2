"""Our entries in transformers' AttentionInterface: a call goes to whatever hangs at the module that makes it.

Both names are known to all of transformers, so they hold no state: several models may run, each in its thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

PAGED = "pilotlight_paged"
"""While serving: no mask is made, since all sequences of a step lie in one row."""
REHEARSED = "pilotlight_rehearsed"
"""While a model is looked at: instead of a mask there is what it would be made of."""

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query position, key position) -> whether the key is seen."""


class Attend(Protocol):
    """What stands for the attention of one module."""

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, arguments: dict[str, Any]
    ) -> Tensor:
        """`queries` (1, num_heads, T, head_dim), the others (1, num_kv_heads, T, ...) -> (1, T, num_heads, ...)."""


class RecordedMask(Tensor):
    """A mask without content that remembers what transformers would have made it of."""

    mask_function: MaskFunction | None = None


def register() -> None:
    """Make both names known to transformers; again does no harm."""
    for name in (PAGED, REHEARSED):
        AttentionInterface.register(name, _attend)
    AttentionMaskInterface.register(REHEARSED, _record_mask)


def attach(module: nn.Module, attend: Attend) -> None:
    """Let `attend` answer the attention calls of `module`."""
    module.pilotlight_attend = attend  # type: ignore[assignment]  # a module takes any attribute


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    return module.pilotlight_attend(query, key, value, attention_mask, arguments), None


def _record_mask(q_length: int, kv_length: int, mask_function: MaskFunction, **_: Any) -> RecordedMask:
    mask = torch.empty(1, 1, q_length, kv_length, device="meta").as_subclass(RecordedMask)
    mask.mask_function = mask_function
    return mask
