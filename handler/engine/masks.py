"""Which tokens the sequences' grammars allow next. Owned by the sampler, so by the engine thread.

A sequence's matcher is kept until the sequence itself is gone, and catches up with its tokens when it is asked.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from handler.engine.grammar import Grammar
from handler.engine.native.library import load_library
from handler.engine.types import Sequence

if TYPE_CHECKING:
    from llguidance import LLMatcher

_WORD_BITS = 32


class Follower:
    """Follows one sequence through its grammar."""

    def __init__(self, grammar: Grammar, num_prompt_tokens: int) -> None:
        self.matcher: LLMatcher = grammar.start()
        self._num_seen = num_prompt_tokens

    @property
    def error(self) -> str:
        """Why the matcher has given up, empty where it has not."""
        return self.matcher.get_error().partition("\n")[0] if self.matcher.is_error() else ""

    def catch_up(self, tokens: list[int], accepted: list[int]) -> None:
        """Consume what is new in the sequence's `tokens` and the `accepted` ones that follow."""
        new = tokens[self._num_seen :] + accepted[max(0, self._num_seen - len(tokens)) :]
        if new:
            self._num_seen += len(new)
            self.matcher.consume_tokens(new)


class Masks:
    """Takes from rows of logits what the grammars do not allow."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._words = -(-vocab_size // _WORD_BITS)
        self._masks = torch.empty(0, self._words, dtype=torch.int32)
        self._followers: WeakKeyDictionary[Sequence, Follower] = WeakKeyDictionary()
        library = load_library() if device.type == "cpu" else None
        self._mask_rows = None if library is None else library.pl_mask_rows

    def follow(self, sequence: Sequence, accepted: list[int]) -> Follower:
        """The follower of a sequence that has a grammar, as far as its tokens go, `accepted` ones last."""
        follower = self._followers.get(sequence)
        if follower is None:
            assert sequence.params.grammar is not None
            follower = self._followers[sequence] = Follower(sequence.params.grammar, sequence.num_prompt_tokens)
        follower.catch_up(sequence.tokens, accepted)
        return follower

    def apply(self, logits: Tensor, followers: dict[int, Follower]) -> None:
        """Set to -inf what the followers do not allow in their rows of `logits` (R, vocab_size) float32.

        A row whose follower has given up means nothing afterwards.
        """
        if len(self._masks) < len(followers):
            self._masks = torch.empty(len(followers), self._words, dtype=torch.int32)
        stride = self._words * self._masks.itemsize
        for index, follower in enumerate(followers.values()):
            follower.matcher.unsafe_compute_mask_ptr(self._masks.data_ptr() + index * stride, stride)
        if self._mask_rows is not None and logits.is_contiguous():
            rows = array("i", followers)
            self._mask_rows(
                logits.data_ptr(), self._vocab_size, rows.buffer_info()[0], len(rows), self._masks.data_ptr()
            )
            return
        banned = _unpack(self._masks[: len(followers)].to(self._device)).logical_not_()[:, : self._vocab_size]
        for row, ban in zip(followers, banned, strict=True):
            logits[row].masked_fill_(ban, float("-inf"))


def _unpack(words: Tensor) -> Tensor:
    """Bits (R, W) int32 as (R, 32 * W) bool, the lowest first."""
    bits = torch.arange(_WORD_BITS, dtype=torch.int32, device=words.device)
    return (words.unsqueeze(-1) >> bits & 1).bool().flatten(1)
