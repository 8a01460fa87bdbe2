"""What the engine says of a sequence: its tokens, step by step, and how it ended. Frozen: crosses threads. No torch."""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from handler.errors import EngineError


class FinishReason(enum.StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token with its natural log probability under the model, before temperature and penalties.

    `top` holds the most likely (token_id, logprob) pairs, likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TokenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What one step yielded for one sequence. The last event of a sequence, and only that, has a finish_reason.

    Where a prompt takes several steps, an event without tokens says after the first of them that it has begun. It may
    come again if the sequence was preempted meanwhile.

    Attributes:
        text: text that is certain now; may be empty while a character or a possible stop string is incomplete.
        token_ids: tokens generated in this step.
        logprobs: one entry per token id where asked for.
        prompt_logprobs: one entry per prompt token but the first, where asked for, in the sequence's first event.
        finish_reason: set on the last event.
        stop_reason: the stop string or the stop token id that ended the sequence, where one did.
        cached_tokens: prompt tokens that came from the prefix cache.
        first_scheduled_s: `time.monotonic()` when the sequence first entered a batch.
        error: the failure behind FinishReason.ERROR.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    first_scheduled_s: float | None = None
    error: EngineError | None = None


OnEvent = Callable[[TokenEvent], None]


def failure_event(error: Exception) -> TokenEvent:
    """The last event of a sequence that failed. An error not of ours goes by its type: its text may tell paths."""
    failure = error if isinstance(error, EngineError) else EngineError(f"the engine failed: {type(error).__name__}")
    return TokenEvent(finish_reason=FinishReason.ERROR, error=failure)
