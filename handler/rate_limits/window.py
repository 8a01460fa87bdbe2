"""What a sliding window says: how much is left, when some of it comes back, when all of it. Pure; knows no clock.

Amounts are counted in periods that follow each other. What the last one counted loses weight in the course of this one,
in proportion, so that at any time about one period's worth is remembered: it is the `limits` library's sliding window.
"""

from __future__ import annotations

import math

import msgspec

_JUST_AFTER_S = 0.001
"""Between the moment at which an amount would fit exactly and one at which it does."""


class Bucket(msgspec.Struct, frozen=True):
    """What is counted together: a name, and how much of it may be taken in each period."""

    name: str
    limit: int
    period_s: int = 60


class Window(msgspec.Struct, frozen=True):
    """One window, now.

    Attributes:
        limit: what may be taken in a period.
        period_s: its length.
        previous: what the last period counted.
        previous_left_s: time until it has lost all weight, which is when this period ends.
        current: what this period has counted.
        current_left_s: time until that will have lost all weight.
    """

    limit: int
    period_s: float
    previous: int
    previous_left_s: float
    current: int
    current_left_s: float

    @property
    def remaining(self) -> int:
        """What may be taken now."""
        counted = math.floor(self.previous * self.previous_left_s / self.period_s + self.current)
        return min(self.limit, max(0, self.limit - counted))

    @property
    def reset_s(self) -> float:
        """Seconds until all of the limit may be taken, if nobody takes any."""
        if self.current > 0:
            return self.current_left_s
        return self.previous_left_s if self.previous > 0 else 0.0

    def wait_s(self, amount: int) -> float:
        """Seconds until that much may be taken, if nobody takes any; `amount` is not above the limit."""
        if amount <= self.remaining:
            return 0.0
        room = self.limit - amount + 1  # what is counted must stay below
        if self.current < room:
            wait_s = self.previous_left_s - (room - self.current) * self.period_s / self.previous
        else:
            # In the next period, when what this one has counted is the previous one.
            wait_s = self.current_left_s - room * self.period_s / self.current
        return max(0.0, wait_s) + _JUST_AFTER_S
