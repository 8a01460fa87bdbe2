from __future__ import annotations

import pytest

from bench.baselines.plan import STACKS
from bench.compare.goals import CHAT_PER_S, CROWDED_P99_MS, GOALS, goal_outcomes
from bench.compare.metrics import comparisons_of
from bench.compare.plan import quick_plan
from bench.result import Ratio
from bench.stats import Summary


def ratio(metric: str, baseline: str, low: float, median: float, high: float, *, num_samples: int = 5) -> Ratio:
    interval = (low, high) if num_samples >= 3 else None
    return Ratio(
        name="",
        numerator=f"pilotlight {metric}",
        denominator=f"{baseline} {metric}",
        summary=Summary(median, low, high, interval, num_samples),
    )


@pytest.mark.parametrize("num_samples", [2, 5])
def test_a_goal_is_reached_by_its_whole_interval(num_samples: int) -> None:
    ratios = [
        ratio(CHAT_PER_S, "fastapi", 3.0, 3.5, 4.0, num_samples=num_samples),
        ratio(CHAT_PER_S, "flask", 4.9, 5.5, 6.0, num_samples=num_samples),
        ratio(CROWDED_P99_MS, "fastapi", 0.2, 0.3, 0.34, num_samples=num_samples),
    ]
    found = {(outcome.goal.baseline, outcome.goal.metric): outcome.is_reached for outcome in goal_outcomes(ratios)}
    assert found == {
        ("fastapi", CHAT_PER_S): True,
        ("flask", CHAT_PER_S): False,  # the median would do
        ("django", CHAT_PER_S): None,
        ("django-asgi", CHAT_PER_S): None,
        ("fastapi", CROWDED_P99_MS): False,
    }


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict"),
    [
        (CHAT_PER_S, 3.0, 4.0, "reached"),
        (CHAT_PER_S, 2.9, 4.0, "not certain"),
        (CHAT_PER_S, 2.0, 2.9, "missed"),
        (CROWDED_P99_MS, 0.2, 0.3, "reached"),
        (CROWDED_P99_MS, 0.2, 0.4, "not certain"),
        (CROWDED_P99_MS, 0.35, 0.4, "missed"),
    ],
)
def test_a_goal_is_missed_only_by_its_whole_interval(metric: str, low: float, high: float, verdict: str) -> None:
    outcomes = goal_outcomes([ratio(metric, "fastapi", low, (low + high) / 2, high)])
    assert [outcome.verdict for outcome in outcomes if outcome.ratio is not None] == [verdict]
    assert {outcome.verdict for outcome in outcomes if outcome.ratio is None} == {"not measured"}


def test_a_tail_that_is_short_enough() -> None:
    (outcome,) = [
        outcome
        for outcome in goal_outcomes([ratio(CROWDED_P99_MS, "fastapi", 0.1, 0.2, 1 / 3)])
        if outcome.ratio is not None
    ]
    assert outcome.is_reached is True


def test_every_goal_is_measured_and_says_what_it_is() -> None:
    plan = quick_plan(STACKS, 3, 0, 1, 0)
    compared = {(each.numerator, each.denominator) for each in comparisons_of(plan)}
    for goal in GOALS:
        assert (("pilotlight", goal.metric), (goal.baseline, goal.metric)) in compared
        assert goal.baseline in goal.text
