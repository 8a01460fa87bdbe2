"""One completion among those of a request, as its events add up to it. Event loop only."""

from __future__ import annotations

import math

from handler.engine.events import FinishReason, TokenEvent, TokenLogprob
from handler.errors import EngineError
from handler.schema.usage import FinishReason as ReportedReason

_REPORTED: dict[FinishReason, ReportedReason] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ERROR: "error",
}


class Choice:
    """One sequence's completion, as far as its events have been read.

    Attributes:
        has_begun: whether its sequence has entered a batch.
        logprobs: those that came since they were last taken; None where there are none.
    """

    text = ""
    has_begun = False
    completion_tokens = 0
    cached_tokens = 0
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: EngineError | None = None
    last_token_s: float | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    logprobs: list[TokenLogprob] | None = None

    def __init__(self, index: int) -> None:
        self.index = index

    def add(self, event: TokenEvent) -> None:
        """Take in what a step yielded."""
        self.extend(event)
        self.cached_tokens = event.cached_tokens
        self.finish_reason = event.finish_reason
        self.stop_reason = event.stop_reason
        if event.finish_reason is FinishReason.ERROR:
            self.error = event.error or EngineError("the engine failed")
        if event.prompt_logprobs is not None:
            self.prompt_logprobs = event.prompt_logprobs

    def extend(self, event: TokenEvent) -> None:
        """Take in what a step yielded that is neither the first nor the last: all that changes are the tokens."""
        self.text += event.text
        self.completion_tokens += len(event.token_ids)
        if event.logprobs is not None:
            if self.logprobs is None:
                self.logprobs = []
            self.logprobs += event.logprobs

    @property
    def reported_reason(self) -> ReportedReason:
        """Why it ended, as answers say it."""
        assert self.finish_reason is not None, "answers are written when every choice has ended"
        return _REPORTED[self.finish_reason]

    @property
    def mean_logprob(self) -> float:
        """Of the tokens whose log probabilities have not been taken; less than any number for a failed choice."""
        if self.error is not None:
            return -math.inf
        entries = self.logprobs or ()
        return math.fsum(entry.logprob for entry in entries) / max(1, len(entries))

    @property
    def num_logprobs(self) -> int:
        """Tokens whose log probabilities are at hand: the prompt's, and those that have not been taken."""
        return len(self.logprobs or ()) + len(self.prompt_logprobs or ())

    def take_logprobs(self) -> list[TokenLogprob] | None:
        """Log probabilities that came since the last call, None where none were asked for."""
        taken, self.logprobs = self.logprobs, None
        return taken
