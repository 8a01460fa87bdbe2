"""One request of a load test, and the durations that follow from its times. Pure; knows no client and no server.

Durations count from the *arrival*, the moment at which the load had scheduled the request, whether or not it was sent
then: a client or a server that falls behind must not make its own lateness disappear (coordinated omission).
"""

from __future__ import annotations

import itertools
from typing import Literal

import msgspec

Failure = Literal["refused", "rejected", "timeout", "connection", "broken", "wrong"]
"""Why a request has no whole and right answer: 429 or 503; another error status; no end in time; no connection, or one
that was lost before anything came; an answer that ended with an error or without its end, or is none; tokens that are
missing, doubled or others than asked for."""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request. Moments are seconds since the load began, on one monotonic clock.

    Attributes:
        number: of the arrival, from 0.
        scheduled_s: when it was to be sent. In a closed loop that is when it was sent.
        sent_s: when it was sent.
        first_byte_s: arrival of the answer's first byte, None where none came.
        token_times_s: arrival of each event with text, in order. An event may hold several tokens.
        ended_s: arrival of the last byte, or when it was given up.
        status: of the answer, None where there was none.
        failure: why it counts as a miss, None where the answer is whole and right.
        error: what was seen, for whoever looks into it.
        prompt_tokens: as the server counted them, None where it did not.
        completion_tokens: likewise.
        max_tokens: that were asked for.
        is_resent: whether it was sent twice: the server had closed the kept connection that it was sent on first.
    """

    number: int
    scheduled_s: float
    sent_s: float
    first_byte_s: float | None
    token_times_s: tuple[float, ...]
    ended_s: float
    status: int | None
    failure: Failure | None
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    max_tokens: int
    is_resent: bool = False

    @property
    def dispatch_delay_s(self) -> float:
        """By how much later than scheduled it was sent: the load's own fault."""
        return self.sent_s - self.scheduled_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from the arrival; None where no token came."""
        return self.token_times_s[0] - self.scheduled_s if self.token_times_s else None

    @property
    def e2e_s(self) -> float:
        """From the arrival to the last byte."""
        return self.ended_s - self.scheduled_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first one; None for fewer than two tokens."""
        if len(self.token_times_s) < 2:
            return None
        num_tokens = self.completion_tokens or len(self.token_times_s)
        return (self.token_times_s[-1] - self.token_times_s[0]) / max(1, num_tokens - 1)

    @property
    def gaps_s(self) -> list[float]:
        """Inter-token latencies: between one event with text and the next."""
        return [after - before for before, after in itertools.pairwise(self.token_times_s)]
