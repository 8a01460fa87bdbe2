"""Guesses a sequence's next tokens from its own past: speculation by prompt lookup (n-grams). Pure Python.

When the last few tokens have stood in the sequence before, what followed them then is proposed again. One object per
sequence, engine thread only. It sees tokens and what became of its guesses, and knows neither model nor batch.
"""

from __future__ import annotations

LONGEST = 4
SHORTEST = 2
"""Tokens of the n-grams that are looked for, the longest first: it is the most telling."""

_FIRST_DRAFT_TOKENS = 4
_LONGEST_PAUSE_TOKENS = 64
_LONGEST_BLIND_TOKENS = 8


class PromptLookup:
    """An index of n-grams that grows with the sequence, and a measure of how much its guesses are worth.

    A draft is twice as long at most as what was accepted of the one before. From the second draft in a row of which
    nothing was accepted, there is none for 4, 8, ... 64 tokens: where the past tells nothing, that is all it costs.
    Where the past does not even hold the last tokens, looking again is worth no delay for 2, 4, 8 tokens.
    """

    def __init__(self) -> None:
        self._continuations: dict[tuple[int, ...], int] = {}  # n-gram -> where it last went on
        self._num_indexed = 0  # n-grams that end at a position below are in the index
        self._longest_draft = _FIRST_DRAFT_TOKENS
        self._num_misses = 0
        self._resume_tokens = 0
        self._num_blanks = 0
        self._worth_waiting_tokens = 0

    def is_paused(self, num_tokens: int) -> bool:
        """Whether a sequence of that many tokens gets no draft for now."""
        return num_tokens < self._resume_tokens

    def is_worth_waiting(self, num_tokens: int) -> bool:
        """Whether to wait for a sequence's last token, when it has `num_tokens`, only to look for a draft."""
        return num_tokens >= max(self._resume_tokens, self._worth_waiting_tokens)

    def propose(self, tokens: list[int], limit: int) -> tuple[int, ...]:
        """Up to `limit` guesses of what follows `tokens`, the sequence so far; often none."""
        limit = min(limit, self._longest_draft)
        if limit <= 0 or self.is_paused(len(tokens)):
            return ()
        self._index(tokens)
        for n in range(LONGEST, SHORTEST - 1, -1):
            start = self._continuations.get(tuple(tokens[-n:]))
            if start is not None:
                self._num_blanks = 0
                return _continue(tokens, start, limit)
        self._num_blanks += 1
        self._worth_waiting_tokens = len(tokens) + min(2**self._num_blanks, _LONGEST_BLIND_TOKENS)
        return ()

    def learn(self, num_accepted: int, num_tokens: int) -> None:
        """Take note of how much of the last draft was right; the sequence has `num_tokens` now."""
        self._longest_draft = max(1, 2 * num_accepted)
        self._num_misses = 0 if num_accepted else self._num_misses + 1
        if self._num_misses >= 2:
            self._resume_tokens = num_tokens + min(2**self._num_misses, _LONGEST_PAUSE_TOKENS)

    def _index(self, tokens: list[int]) -> None:
        """Note where each n-gram went on; the one that ends with the last token has not gone on yet."""
        for end in range(self._num_indexed, len(tokens) - 1):
            for n in range(SHORTEST, min(LONGEST, end + 1) + 1):
                self._continuations[tuple(tokens[end + 1 - n : end + 1])] = end + 1
        self._num_indexed = max(self._num_indexed, len(tokens) - 1)


def _continue(tokens: list[int], start: int, length: int) -> tuple[int, ...]:
    """`length` tokens from `start` on; behind the last one it goes on with its own beginning, as a loop does."""
    draft: list[int] = []
    for position in range(start, start + length):
        draft.append(tokens[position] if position < len(tokens) else draft[position - len(tokens)])
    return tuple(draft)
