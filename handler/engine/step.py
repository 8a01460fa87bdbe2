"""What one step is: the chunks it computes, the tokens they yield, and who can run it. Engine thread only; no torch."""

from __future__ import annotations

from typing import Protocol

import msgspec

from handler.engine.events import TokenLogprob
from handler.engine.sequence import Sequence
from handler.errors import EngineError


class Chunk(msgspec.Struct, frozen=True):
    """Tokens `[start, start + length)` of a sequence that one step computes.

    `draft` are tokens guessed to follow, computed in the same step; only a chunk of one token that samples has them.
    The properties hold until the step is launched; the sequence grows afterwards.
    """

    sequence: Sequence
    start: int
    length: int
    draft: tuple[int, ...] = ()

    @property
    def is_ahead(self) -> bool:
        """Whether its one token is not known to the host yet: what the step launched before samples for it."""
        return self.start == len(self.sequence)

    @property
    def samples(self) -> bool:
        """Whether the chunk reaches the sequence's last token, so that the next one is sampled from it."""
        return self.start + self.length >= len(self.sequence)

    @property
    def scored_rows(self) -> range:
        """Positions whose logits are wanted for `prompt_logprobs`; never in a chunk of one token or with a draft."""
        sequence = self.sequence
        end = min(self.start + self.length, sequence.num_rows_to_score)
        return range(max(self.start, sequence.num_scored_rows), end)


Batch = list[Chunk]


class SampledToken(msgspec.Struct, frozen=True):
    """The choice of one row of logits. With an `error` there was none, and the token means nothing."""

    token_id: int
    logprob: TokenLogprob | None = None
    error: EngineError | None = None


class PendingStep(Protocol):
    """A step that was launched. Steps are waited for once each, in the order of their launch."""

    def wait(self) -> list[tuple[Sequence, list[SampledToken]]]:
        """The tokens of each chunk that samples, chunks in any order.

        One token, or with a draft 1 to 1 + len(draft): the row behind each draft token counts if the token before it
        was sampled as guessed, so they are the tokens that would come without the draft, in order.
        """

    def prompt_logprobs(self) -> list[tuple[Sequence, list[TokenLogprob]]]:
        """Of the tokens behind the `scored_rows` of each chunk that has any. Not before `wait` has returned."""


class Runner(Protocol):
    """The device side of a step. `runs_ahead`: `launch` returns before the tokens are known."""

    @property
    def runs_ahead(self) -> bool:
        """Whether chunks may be ahead; then the core keeps one step in flight."""

    def launch(self, batch: Batch) -> PendingStep:
        """Begin a step. Steps take effect in the order of their launch; the batch may change once this returns."""

    def clear(self, blocks: list[int]) -> None:
        """Called with the blocks of a sequence that failed: none of its numbers may reach who gets them next."""

    def idle(self) -> None:
        """Called when nothing runs: time for preparations that no request should wait for."""
