"""What the function is to reach beside each framework, and whether a result shows it. Pure.

A goal is reached where the whole interval of the ratio is on its good side: a median that luck could have put there is
not enough. Of fewer than three rounds, which have no interval, all must be on the good side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from bench.baselines.plan import Stack
from bench.result import Ratio
from bench.stats import Summary

OURS: Stack = "pilotlight"

GoalVerdict = Literal["reached", "not certain", "missed", "not measured"]

CHAT_PER_S = "chat_requests_per_s@64"
CROWDED_P99_MS = "chat_p99_ms@1000"


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One goal: the function's metric over a framework's.

    Attributes:
        baseline: the framework.
        metric: of both.
        direction: whether the ratio is to be so large or so small.
        bound: of the ratio.
    """

    baseline: Stack
    metric: str
    direction: Literal["at least", "at most"]
    bound: float

    @property
    def text(self) -> str:
        """In words."""
        if self.metric == CHAT_PER_S:
            return f"{self.direction} {self.bound:g} times as many chats per second as {self.baseline}"
        return f"{self.direction} {self.bound:.2f} of {self.baseline}'s 99th percentile at 1000 connections"

    def is_kept_by(self, summary: Summary) -> bool:
        """Whether a ratio's rounds show it."""
        low, high = summary.interval or (summary.low, summary.high)
        return low >= self.bound if self.direction == "at least" else high <= self.bound


GOALS: tuple[Goal, ...] = (
    Goal(baseline="fastapi", metric=CHAT_PER_S, direction="at least", bound=3.0),
    Goal(baseline="flask", metric=CHAT_PER_S, direction="at least", bound=5.0),
    Goal(baseline="django", metric=CHAT_PER_S, direction="at least", bound=5.0),
    Goal(baseline="django-asgi", metric=CHAT_PER_S, direction="at least", bound=5.0),
    Goal(baseline="fastapi", metric=CROWDED_P99_MS, direction="at most", bound=1 / 3),
)


class GoalOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one goal. Both None: the two sides were not measured in one round."""

    goal: Goal
    ratio: Summary | None
    is_reached: bool | None

    @property
    def verdict(self) -> GoalVerdict:
        """A goal that is not reached is missed only where nothing in the interval reaches it."""
        if self.ratio is None:
            return "not measured"
        if self.is_reached:
            return "reached"
        low, high = self.ratio.interval or (self.ratio.low, self.ratio.high)
        is_near = high >= self.goal.bound if self.goal.direction == "at least" else low <= self.goal.bound
        return "not certain" if is_near else "missed"


def goal_outcomes(ratios: Sequence[Ratio]) -> tuple[GoalOutcome, ...]:
    """Of every goal, by the ratios of a result."""
    summaries = {(ratio.numerator, ratio.denominator): ratio.summary for ratio in ratios}
    return tuple(_outcome(goal, summaries) for goal in GOALS)


def _outcome(goal: Goal, summaries: dict[tuple[str, str], Summary]) -> GoalOutcome:
    summary = summaries.get((f"{OURS} {goal.metric}", f"{goal.baseline} {goal.metric}"))
    is_reached = None if summary is None else goal.is_kept_by(summary)
    return GoalOutcome(goal=goal, ratio=summary, is_reached=is_reached)
