from __future__ import annotations

import itertools
import random

from bench.errors import BenchError
from bench.gate.blame import SideError, SideName
from bench.gate.metrics import EVENTS, REQUEST_CPU, micro
from bench.gate.pair import Pair, abba
from bench.gate.plan import Plan
from bench.gate.rounds import Duel, Figures, Rounds

_PLAN = Plan(duels=(), looks=(8, 12, 16), budget_s=100.0, server_core=0, load_core=1, seed=0)


def _duel(slowdown: float) -> Duel:
    return lambda rng: {REQUEST_CPU: Pair(100.0, 100.0 * slowdown * rng.lognormvariate(0, 0.01))}


def _unclear() -> Duel:
    heads = itertools.cycle([91.0, 109.0])
    return lambda _: {EVENTS: Pair(107.0, next(heads))}


def _failing(side: SideName | None) -> Duel:
    def duel(rng: random.Random) -> Figures:
        del rng
        raise BenchError("gone") if side is None else SideError(side, "gone")

    return duel


def _rounds(clock_step_s: float = 0.0) -> Rounds:
    ticks = itertools.count()
    return Rounds(_PLAN, lambda _: None, clock=lambda: next(ticks) * clock_step_s)


def test_rounds_end_as_soon_as_the_samples_say_enough() -> None:
    outcome = _rounds().run({"stub": _duel(1.0)}, {})
    assert (outcome.verdict, outcome.num_rounds) == ("pass", 8)
    outcome = _rounds().run({"stub": _duel(1.2)}, {})
    assert (outcome.verdict, outcome.num_rounds) == ("fail", 8)


def test_what_is_unclear_gets_all_rounds() -> None:
    outcome = _rounds().run({"stub": _unclear()}, {})
    assert (outcome.verdict, outcome.num_rounds) == ("inconclusive", 16)


def test_no_round_begins_after_the_budget_and_what_there_is_is_judged() -> None:
    outcome = _rounds(clock_step_s=10.0).run({"stub": _unclear()}, {})
    assert outcome.num_rounds == 9
    assert [each.num_rounds for each in outcome.verdicts] == [9]


def test_counts_are_judged_with_the_rest_and_a_count_alone_needs_no_round() -> None:
    metric = micro("decode", "counted")
    outcome = _rounds().run({}, {"micro": lambda _: {metric: Pair(100.0, 106.0)}})
    assert (outcome.verdict, outcome.num_rounds) == ("fail", 0)
    outcome = _rounds().run({"stub": _duel(1.0)}, {"micro": lambda _: {metric: Pair(100.0, 106.0)}})
    assert outcome.verdict == "fail"


def test_a_head_that_cannot_be_measured_fails_and_a_base_that_cannot_leaves_it_open() -> None:
    verdicts = {}
    for side in ("head", "base", None):
        outcome = _rounds().run({"stub": _duel(1.0), "model": _failing(side)}, {})
        assert outcome.given_up == ("model",)
        assert [problem.side for problem in outcome.problems] == [side, side]
        verdicts[side] = outcome.verdict
    assert verdicts == {"head": "fail", "base": "inconclusive", None: "inconclusive"}


def test_one_failure_costs_a_duel_one_round() -> None:
    calls = itertools.count()

    def duel(rng: random.Random) -> Figures:
        if next(calls) == 3:
            raise BenchError("once")
        return _duel(1.0)(rng)

    outcome = _rounds().run({"stub": duel, "other": lambda _: {EVENTS: Pair(100.0, 100.0)}}, {})
    assert outcome.verdict == "pass"
    assert {each.name: each.num_rounds for each in outcome.verdicts} == {REQUEST_CPU.name: 7, EVENTS.name: 8}


def test_turns_are_symmetric() -> None:
    orders = {tuple(abba(2, random.Random(seed))) for seed in range(20)}
    assert orders == {(0, 1, 1, 0), (1, 0, 0, 1)}
