"""A launched step: which tokens of its result belong to whom, and the wait for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import torch
from torch import Tensor

from handler.engine.cuda.clock import HostClock
from handler.engine.cuda.sampling import NO_CHOICE
from handler.engine.events import TokenLogprob
from handler.engine.logprobs import Scores
from handler.engine.sampler import Sampler, not_finite
from handler.engine.sequence import Sequence
from handler.engine.step import SampledToken


class Draw(msgspec.Struct, frozen=True):
    """Choices `[first, first + 1 + len(draft))` of a step, which belong to one sequence.

    Attributes:
        sequence: whose they are.
        first: index of the first among the step's choices.
        draft: tokens that the rows behind the first were computed with.
        rng_state: of the sequence's generator before it drew for this step, where it may have drawn too often.
    """

    sequence: Sequence
    first: int
    draft: tuple[int, ...]
    rng_state: tuple[Any, ...] | None

    def accept(self, tokens: list[int]) -> list[int]:
        """Those of the step's `tokens` that would have come without drafts."""
        accepted = [tokens[self.first]]
        for offset, guess in enumerate(self.draft, start=1):
            if accepted[-1] != guess:
                break
            accepted.append(tokens[self.first + offset])
        if self.rng_state is not None:
            self.sequence.rng.setstate(self.rng_state)
            for _ in accepted:
                self.sequence.rng.random()
        return accepted


class HostChoice(msgspec.Struct, frozen=True):
    """Rows whose tokens the host's sampler chooses: their sequences and a copy of their logits.

    `beside` keeps that from waiting for a step that was launched since.
    """

    sampler: Sampler
    sequences: list[Sequence]
    logits: Tensor
    beside: Callable[[], AbstractContextManager[object]]


class FetchedScores(msgspec.Struct, frozen=True):
    """Log probabilities of a sequence's prompt tokens, on the host once `finished` has returned."""

    sequence: Sequence
    scores: Scores
    finished: Callable[[], None]


class LaunchedStep:
    """One step in flight. `tokens` (C,) int64 on the host are valid once `finished` has returned."""

    def __init__(
        self,
        tokens: Tensor,
        finished: Callable[[], None],
        draws: list[Draw],
        host_choice: HostChoice | None,
        scores: list[FetchedScores],
        clock: HostClock,
    ) -> None:
        self._tokens = tokens
        self._finished = finished
        self._draws = draws
        self._host_choice = host_choice
        self._scores = scores
        self._clock = clock

    def wait(self) -> list[tuple[Sequence, list[SampledToken]]]:
        """Tokens of every sampling chunk, when the device has them."""
        self._finished()
        with self._clock.working():
            tokens = self._tokens.tolist()
            result = [(draw.sequence, [_sampled(token) for token in draw.accept(tokens)]) for draw in self._draws]
        if self._host_choice is not None:
            result += self._choose_on_host(self._host_choice)
        return result

    def prompt_logprobs(self) -> list[tuple[Sequence, list[TokenLogprob]]]:
        """Of every chunk that asks for them, when the host has them."""
        result = []
        for fetched in self._scores:
            fetched.finished()
            result.append((fetched.sequence, fetched.scores.report()))
        return result

    @torch.inference_mode()
    def _choose_on_host(self, choice: HostChoice) -> list[tuple[Sequence, list[SampledToken]]]:
        with choice.beside():
            tokens = choice.sampler.sample(choice.logits, choice.sequences)
        return [(sequence, [token]) for sequence, token in zip(choice.sequences, tokens, strict=True)]


def _sampled(token: int) -> SampledToken:
    return SampledToken(token, error=not_finite() if token == NO_CHOICE else None)
