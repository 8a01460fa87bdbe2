from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.baselines.plan import STACKS
from bench.compare.metrics import comparisons_of
from bench.compare.plan import ROUNDS, Plan, full_plan, has_part, quick_plan
from bench.compare.quoted import QUOTED

Make = Callable[..., Plan]


def test_the_small_form_ends_within_ten_minutes_and_the_large_one_within_an_hour() -> None:
    assert quick_plan(STACKS, ROUNDS["quick"], 0, 1, 0).total_s < 570
    assert 2000 < full_plan(STACKS, ROUNDS["full"], 0, 1, 0).total_s < 3600


def test_what_goals_are_set_for_is_measured_more_often() -> None:
    plan = full_plan(STACKS, 3, 0, 1, 0)
    assert plan.rounds_of("chats") > plan.rounds_of("closed") == 3 >= plan.rounds_of("model")


@pytest.mark.parametrize("make", [quick_plan, full_plan])
def test_no_load_belongs_to_two_parts_and_a_crowd_is_measured_for_longer(make: Make) -> None:
    plan = make(STACKS, 3, 0, 1, 0)
    assert not {plan.busy_connections, plan.crowd} & set(plan.curve)
    assert plan.seconds_of(64) == plan.seconds_of(100) == plan.seconds
    assert plan.seconds_of(1000) == plan.seconds + 2


@pytest.mark.parametrize("make", [quick_plan, full_plan])
def test_each_rate_of_a_ladder_comes_once_in_as_many_rounds_and_rises(make: Make) -> None:
    ladder = make(STACKS, 3, 0, 1, 0).open_loops
    rounds = [ladder.rates_of(number) for number in range(ladder.rounds_of_ladder)]
    assert sorted(rate for rates in rounds for rate in rates) == sorted(ladder.rates_per_s)
    assert all(list(rates) == sorted(rates) for rates in rounds)
    assert ladder.rates_of(ladder.rounds_of_ladder) == rounds[0]


def test_steps_are_one_server_each() -> None:
    plan = quick_plan(("bare", "flask"), 2, 0, 1, 0)
    assert sorted(plan.steps) == sorted(
        [("chats", number, stack) for number in range(2) for stack in ("bare", "flask")]
        + [("closed", number, stack) for number in range(2) for stack in ("bare", "flask")]
        + [(part, number, "flask") for part in ("streams", "open") for number in range(2)]
        + [("model", 0, "flask")]
    )
    assert plan.total_s == pytest.approx(plan.calibration_s + sum(plan.budget_s(*step[:2]) for step in plan.steps))


def test_without_a_stack_that_generates_there_is_nothing_to_calibrate() -> None:
    assert quick_plan(("bare",), 1, 0, 1, 0).calibration_s == 0.0
    assert not has_part("bare", "model")


def test_whatever_is_quoted_is_measured() -> None:
    measured = {comparison.numerator[1] for comparison in comparisons_of(quick_plan(STACKS, 3, 0, 1, 0))}
    for table in QUOTED:
        assert {metric for _, metric in table.columns} <= measured
        assert all(len(figures) == len(table.columns) for figures in table.rows.values())
        assert set(table.rows) <= set(STACKS)
