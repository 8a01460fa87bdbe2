"""Follows one sequence through its grammar. Engine thread only; knows no logits."""

from __future__ import annotations

from handler.engine.grammar import Grammar


class Follower:
    """The place in a grammar that a sequence has reached, as far as it was told."""

    def __init__(self, grammar: Grammar, num_prompt_tokens: int) -> None:
        self._matcher = grammar.start()
        self._num_seen = num_prompt_tokens

    @property
    def error(self) -> str:
        """Why the grammar cannot be followed any further, empty where it can."""
        return self._matcher.get_error().partition("\n")[0] if self._matcher.is_error() else ""

    def catch_up(self, tokens: list[int], accepted: list[int]) -> None:
        """Take in what is new in the sequence's `tokens` and the `accepted` ones that follow."""
        new = tokens[self._num_seen :] + accepted[max(0, self._num_seen - len(tokens)) :]
        if new:
            self._num_seen += len(new)
            self._matcher.consume_tokens(new)

    def allows(self, token: int) -> bool:
        """Whether the token may come next."""
        return self._matcher.validate_tokens([token]) == 1

    def forced_tokens(self) -> list[int]:
        """How the text that must come next is usually cut into tokens; often none. Other cuts are allowed."""
        return self._matcher.compute_ff_tokens()

    def write_mask(self, address: int, size_bytes: int) -> None:
        """Write a bit for each token of the vocabulary, set where it may come next, the lowest bit first."""
        self._matcher.unsafe_compute_mask_ptr(address, size_bytes)
