"""What a comparison says in one line, and goal by goal. Pure.

Every goal is shown as a gain, so that further right is better in all of them: where a goal bounds a cost, the gain is
the baseline's cost over ours.
"""

from __future__ import annotations

import msgspec

from bench.compare.goals import CHAT_PER_S, Goal, GoalOutcome, GoalVerdict, goal_outcomes
from bench.report.forest import Forest, Row, State, gains
from bench.report.numbers import TIMES, exact
from bench.report.stacks import stack_of
from bench.result import Result

_STATES: dict[GoalVerdict, State] = {
    "reached": "good",
    "missed": "bad",
    "not certain": "unsure",
    "not measured": "absent",
}


class Verdict(msgspec.Struct, frozen=True):
    """The headline and the goals behind it."""

    headline: str
    goals: Forest

    @property
    def state(self) -> State:
        """The worst of the goals."""
        states = {row.state for row in self.goals.rows}
        order: tuple[State, ...] = ("bad", "unsure", "absent", "good")
        return next(state for state in order if state in states)


def verdict(result: Result) -> Verdict:
    """Of all goals."""
    rows = tuple(_row(outcome) for outcome in goal_outcomes(result.ratios))
    measured = [row for row in rows if row.state != "absent"]
    reached = [row for row in measured if row.state == "good"]
    if not measured:
        headline = "No goal was measured"
    elif len(reached) == len(rows):
        headline = f"All {len(rows)} goals reached"
    else:
        headline = f"{len(reached)} of {len(rows)} goals reached"
    return Verdict(headline, gains(rows, "How many times better than each baseline"))


def _row(outcome: GoalOutcome) -> Row:
    goal, ratio = outcome.goal, outcome.ratio
    bound = goal.bound if goal.direction == "at least" else 1 / goal.bound
    quantity = "chat requests/s" if goal.metric == CHAT_PER_S else "p99 at 1000 connections"
    value, interval = None, None
    if ratio is not None:
        value = _gain(goal, ratio.median)
        ends = [_gain(goal, end) for end in ratio.interval] if ratio.interval else []
        interval = (min(ends), max(ends)) if ends else None
    return Row(
        label=f"vs {stack_of(goal.baseline).label}",
        small=f"{quantity}, goal {exact(bound)}{TIMES}",
        value=value,
        interval=interval,
        bounds=(bound,),
        state=_STATES[outcome.verdict],
        verdict=outcome.verdict,
    )


def _gain(goal: Goal, ratio: float) -> float:
    return ratio if goal.direction == "at least" else 1 / ratio
