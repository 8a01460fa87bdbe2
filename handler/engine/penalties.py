"""Penalties for tokens that a sequence has already. Owned by the sampler, so by the engine thread.

What was counted for a sequence is kept until the sequence itself is gone, so that a step counts only the tokens that
are new, and its work does not grow with the completion.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from handler.engine.sequence import Sequence

_FIRST_CAPACITY = 256


class TokenCounts:
    """How often each token occurs in a sequence, from position `start` on.

    A token's slot in the tensors is that of its first occurrence; the tensors double when they are full.
    """

    def __init__(self, start: int, device: torch.device) -> None:
        self._num_counted = start
        self._slots: dict[int, int] = {}
        self._ids = torch.zeros(_FIRST_CAPACITY, dtype=torch.int64, device=device)
        self._counts = torch.zeros_like(self._ids)

    @property
    def ids(self) -> Tensor:
        """The different tokens (N,) int64."""
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> Tensor:
        """How often each of `ids` occurs (N,) int64."""
        return self._counts[: len(self._slots)]

    def count(self, tokens: list[int], accepted: list[int]) -> None:
        """Count what is new since the last call in the sequence's `tokens` and the `accepted` ones that follow."""
        new = tokens[self._num_counted :] + accepted[max(0, self._num_counted - len(tokens)) :]
        if not new:
            return
        self._num_counted += len(new)
        slots = [self._slots.setdefault(token, len(self._slots)) for token in new]
        while len(self._slots) > len(self._ids):
            self._ids = torch.cat((self._ids, torch.zeros_like(self._ids)))
            self._counts = torch.cat((self._counts, torch.zeros_like(self._counts)))
        places = torch.tensor(slots, device=self._ids.device)
        self._ids[places] = torch.tensor(new, device=self._ids.device)
        self._counts.index_add_(0, places, torch.ones_like(places))


class Penalties:
    """Applies the penalties of every sequence to its row of logits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._all: WeakKeyDictionary[Sequence, TokenCounts] = WeakKeyDictionary()
        self._output: WeakKeyDictionary[Sequence, TokenCounts] = WeakKeyDictionary()

    def apply(self, row: Tensor, sequence: Sequence, accepted: list[int]) -> None:
        """Change one row of logits (vocab_size,) by what its sequence has said so far, `accepted` tokens last."""
        params = sequence.params
        if params.repetition_penalty != 1.0:
            ids = self._counts(self._all, sequence, accepted, 0).ids
            values = row[ids]
            row[ids] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        if params.presence_penalty or params.frequency_penalty:
            output = self._counts(self._output, sequence, accepted, sequence.num_prompt_tokens)
            counts = output.counts
            row[output.ids] -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)

    def _counts(
        self, known: WeakKeyDictionary[Sequence, TokenCounts], sequence: Sequence, accepted: list[int], start: int
    ) -> TokenCounts:
        counts = known.get(sequence)
        if counts is None:
            counts = known[sequence] = TokenCounts(start, self._device)
        counts.count(sequence.tokens, accepted)
        return counts
