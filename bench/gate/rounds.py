"""Rounds of duels, until the samples say enough or the budget is used up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from bench.errors import BenchError
from bench.gate.blame import SideError, SideName
from bench.gate.metrics import Metric
from bench.gate.pair import Pair
from bench.gate.plan import Plan
from bench.gate.result import MetricVerdict, Verdict
from bench.gate.statistics import judge, overall

Figures = dict[Metric, Pair[float]]
Duel = Callable[[random.Random], Figures]
"""One round of one kind: a sample of each of its metrics for both sides."""

_MAX_PROBLEMS = 2


class Problem(msgspec.Struct, frozen=True):
    """A duel that could not be fought in one round; `side`: because of whom, None where that is not known."""

    duel: str
    side: SideName | None
    error: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came out.

    Attributes:
        verdicts: by metric.
        num_rounds: that were run.
        problems: in order.
        given_up: duels that were not measured.
    """

    verdicts: tuple[MetricVerdict, ...]
    num_rounds: int
    problems: tuple[Problem, ...]
    given_up: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Of all together. A head that cannot even be measured, where the base can, fails."""
        for duel in self.given_up:
            if all(problem.side == "head" for problem in self.problems if problem.duel == duel):
                return "fail"
        return overall(self.verdicts, len(self.given_up))


class Rounds:
    """Runs duels and keeps their samples. The budget counts from when this was made.

    Args:
        plan: with the looks and the budget.
        progress: what is told to whoever waits.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, plan: Plan, progress: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan, self._progress, self._clock = plan, progress, clock
        self._began_s = clock()
        self._rng = random.Random(plan.seed)  # noqa: S311  (an order)
        self._samples: dict[Metric, Pair[list[float]]] = {}
        self._problems: list[Problem] = []
        self._given_up: list[str] = []

    def run(self, duels: Mapping[str, Duel], counts: Mapping[str, Duel]) -> Outcome:
        """Everything in `counts` once, and every duel once a round. A duel that fails twice is given up."""
        for name, duel in counts.items():
            if not self._fight(name, duel):
                self._given_up.append(name)
        looks, number, verdicts = self._plan.looks, 0, self._judge()
        going = dict(duels)
        while going and number < looks[-1] and self._clock() - self._began_s < self._plan.budget_s:
            number += 1
            self._progress(f"round {number} of at most {looks[-1]}")
            for name, duel in list(going.items()):
                if not self._fight(name, duel) and self._count_problems(name) >= _MAX_PROBLEMS:
                    self._given_up.append(name)
                    del going[name]
            if number in looks:
                verdicts = self._judge()
                self._progress(_shown(verdicts))
                if overall(verdicts, 0) != "inconclusive":
                    break
        else:
            verdicts = self._judge()  # the budget ended it between two looks: this one stands for those that are left
        return Outcome(
            verdicts=verdicts,
            num_rounds=number,
            problems=tuple(self._problems),
            given_up=tuple(self._given_up),
        )

    def _judge(self) -> tuple[MetricVerdict, ...]:
        return judge(self._samples, len(self._plan.looks))

    def _fight(self, name: str, duel: Duel) -> bool:
        try:
            figures = duel(self._rng)
        except BenchError as error:
            self._progress(str(error))
            side = error.side if isinstance(error, SideError) else None
            self._problems.append(Problem(name, side, str(error)))
            return False
        for metric, pair in figures.items():
            both = self._samples.setdefault(metric, Pair([], []))
            both.base.append(pair.base)
            both.head.append(pair.head)
        return True

    def _count_problems(self, name: str) -> int:
        return sum(problem.duel == name for problem in self._problems)


def _shown(verdicts: Sequence[MetricVerdict]) -> str:
    left = [f"{each.name} {each.verdict} ({each.slowdown:.3f})" for each in verdicts if each.verdict != "pass"]
    return ", ".join(left) or "all metrics pass"
