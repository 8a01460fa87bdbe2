from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest

from bench.gate import log_duel, stub_duel
from bench.gate.blame import SideError
from bench.gate.injections import END_TO_END
from bench.gate.metrics import EVENTS, LOG_ROWS, REQUEST_CPU, REQUESTS
from bench.gate.pair import Pair
from bench.gate.plan import Plan
from bench.gate.turns import neighbours
from bench.log.postgres import running_postgres
from tests.bench.gate.sides import SOURCE, side_of

_CORES = sorted(os.sched_getaffinity(0))
_PLAN = Plan(
    duels=(),
    looks=(8,),
    budget_s=1,
    turns=6,
    connections=8,
    streams=8,
    server_core=_CORES[0],
    load_core=_CORES[-1],
    seed=0,
)


def test_neighbours_are_set_in_ratios_whatever_the_machine_does() -> None:
    # The machine becomes ten times as slow; the head is a tenth slower all along.
    turns = Pair([1.0, 2.0, 10.0], [1.1, 2.2, 11.0])
    assert neighbours(turns) == Pair(2.0, pytest.approx(2.2))
    # One turn in which the machine did something else.
    assert neighbours(Pair([1.0] * 5, [1.1, 1.1, 1.1, 1.1, 50.0])) == Pair(1.0, pytest.approx(1.1))
    assert neighbours(Pair([1.0], [1.1])) == Pair(1.0, pytest.approx(1.1))


@pytest.mark.parametrize("turns", [4, 5])
def test_who_comes_after_the_other_pays_for_it_and_neither_side_looks_slower(turns: int) -> None:
    base, head = ([1.0 + 0.2 * (turn % 2 == side) for turn in range(turns)] for side in (0, 1))
    assert neighbours(Pair(base, head)).head / neighbours(Pair(base, head)).base == pytest.approx(1.0)


def test_a_head_whose_requests_cost_more_shows_it_and_its_streams_do_not(tmp_path: Path) -> None:
    injection = next(each for each in END_TO_END if each.name == "requests")
    slower = injection.apply((SOURCE.parent / injection.file).read_text(encoding="utf-8"), 30_000)
    sides = Pair(side_of(tmp_path / "base"), side_of(tmp_path / "head", injection.file, slower))
    before = os.sched_getaffinity(0)
    figures = stub_duel.fight(sides, _PLAN, random.Random(0))
    assert os.sched_getaffinity(0) == before
    slowdowns = {metric.name: metric.slowdown(*pair) for metric, pair in figures.items()}
    assert set(slowdowns) == {REQUESTS.name, REQUEST_CPU.name, EVENTS.name}
    assert slowdowns[REQUESTS.name] > 1.5
    assert slowdowns[REQUEST_CPU.name] > 1.5
    assert slowdowns[EVENTS.name] < slowdowns[REQUESTS.name]


def test_a_side_that_does_not_start_is_named(tmp_path: Path) -> None:
    broken = side_of(tmp_path / "head", "handler/sse.py", "raise ImportError('no more')")
    with pytest.raises(SideError, match=r"head: a stub ended with 1:(.|\n)*no more") as caught:
        stub_duel.fight(Pair(side_of(tmp_path / "base"), broken), _PLAN, random.Random(0))
    assert caught.value.side == "head"


def test_a_side_that_answers_with_errors_is_named(tmp_path: Path) -> None:
    source = (SOURCE / "formats" / "chat.py").read_text(encoding="utf-8")
    broken = source.replace("return decode_request(self._decoder, body)", "raise InvalidRequestError('no')")
    assert broken != source
    sides = Pair(side_of(tmp_path / "base", "handler/formats/chat.py", broken), side_of(tmp_path / "head"))
    with pytest.raises(SideError, match="base: an answer had status 400"):
        stub_duel.fight(sides, _PLAN, random.Random(0))


def test_a_head_whose_log_is_slower_shows_it(tmp_path: Path) -> None:
    injection = next(each for each in END_TO_END if each.name == "log rows")
    slower = injection.apply((SOURCE.parent / injection.file).read_text(encoding="utf-8"), 5000)
    sides = Pair(side_of(tmp_path / "base"), side_of(tmp_path / "head", injection.file, slower))
    plan = msgspec.structs.replace(_PLAN, records=200, log_turns=4)
    with running_postgres() as postgres:
        figures = log_duel.fight(sides, plan, random.Random(0), postgres)
        assert postgres.count_rows() == 2 * (4 + 2) * 200
    (pair,) = figures.values()
    assert set(figures) == {LOG_ROWS}
    assert LOG_ROWS.slowdown(*pair) > 1.5


def test_a_side_that_cannot_ship_is_named(tmp_path: Path) -> None:
    broken = side_of(tmp_path / "head", "handler/requestlog/spool.py", "raise ImportError('no more')")
    sides = Pair(side_of(tmp_path / "base"), broken)
    with (
        running_postgres() as postgres,
        pytest.raises(SideError, match=r"head: the shipping ended with 1:(.|\n)*no more"),
    ):
        log_duel.fight(sides, _PLAN, random.Random(0), postgres)
