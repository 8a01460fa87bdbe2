"""Bans of words, as vLLM's `bad_words`: a word's last token is not chosen where the completion ends with the others.

Owned by the sampler, so by the engine thread. What is not banned for good costs a look at the words whose last token
but one has just been chosen.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from handler.engine.sequence import Sequence


class WordTable:
    """The words of one sequence: the single tokens, and the others by their last token but one."""

    def __init__(self, words: tuple[tuple[int, ...], ...], device: torch.device) -> None:
        self.single = torch.tensor([word[0] for word in words if len(word) == 1], dtype=torch.int64, device=device)
        # Words that share all but their last token are looked at once: 512 long ones would take milliseconds of a step.
        lasts: dict[tuple[int, ...], list[int]] = {}
        for word in words:
            if len(word) > 1:
                lasts.setdefault(word[:-1], []).append(word[-1])
        self._by_previous: dict[int, list[tuple[list[int], list[int]]]] = {}
        for before, last in lasts.items():
            self._by_previous.setdefault(before[-1], []).append((list(before), last))
        self._longest = max(map(len, words))

    def last_tokens(self, output: list[int]) -> list[int]:
        """Last tokens of the words of which `output` ends with all the rest."""
        words = self._by_previous.get(output[-1], ()) if output else ()
        return [token for before, last in words if output[-len(before) :] == before for token in last]

    def recent(self, sequence: Sequence, accepted: list[int]) -> list[int]:
        """As much of the completion, `accepted` tokens last, as a word may need."""
        first = max(sequence.num_prompt_tokens, len(sequence) - self._longest)
        return sequence.tokens[first:] + accepted


class BadWords:
    """Applies the bans of every sequence to its row of logits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tables: WeakKeyDictionary[Sequence, WordTable] = WeakKeyDictionary()

    def apply(self, row: Tensor, sequence: Sequence, accepted: list[int]) -> None:
        """Change one row of logits (vocab_size,) of a sequence with bad words; `accepted` tokens come last."""
        table = self._tables.get(sequence)
        if table is None:
            table = self._tables[sequence] = WordTable(sequence.params.bad_words, self._device)
        row[table.single] = float("-inf")
        for token in table.last_tokens(table.recent(sequence, accepted)):
            row[token] = float("-inf")
