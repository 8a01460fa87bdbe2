from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.gate import micro_duel
from bench.gate.blame import SideError
from bench.gate.counting import can_count, count
from bench.gate.injections import MICRO
from bench.gate.installation import Installation
from bench.gate.pair import Pair
from bench.gate.plan import Plan
from bench.gate.statistics import judge
from tests.bench.gate.sides import SOURCE, side_of

_LOOPS = 2000


@pytest.fixture
def sides(tmp_path: Path) -> Pair[Installation]:
    """A base, and a head that turns a loop for each chat request."""
    injection = next(each for each in MICRO if each.name == "decode")
    source = (SOURCE.parent / injection.file).read_text(encoding="utf-8")
    return Pair(side_of(tmp_path / "base"), side_of(tmp_path / "head", injection.file, injection.apply(source, _LOOPS)))


@pytest.mark.skipif(not can_count(), reason="valgrind is not installed")
def test_instructions_show_what_was_made_slower_and_nothing_else(sides: Pair[Installation]) -> None:
    figures = count(sides, {"decode": 20, "validation": 20})
    verdicts = {
        verdict.name: verdict for verdict in judge({m: Pair([p.base], [p.head]) for m, p in figures.items()}, 1)
    }
    assert verdicts["decode_instructions"].verdict == "fail"
    assert verdicts["validation_instructions"].verdict == "pass"
    assert verdicts["validation_instructions"].slowdown == pytest.approx(1.0, abs=0.02)
    # A turn of the loop is some ten instructions of the interpreter.
    more = verdicts["decode_instructions"].head_median - verdicts["decode_instructions"].base_median
    assert 5 * _LOOPS < more < 200 * _LOOPS


@pytest.mark.skipif(not can_count(), reason="valgrind is not installed")
def test_a_side_that_cannot_be_counted_is_named(tmp_path: Path) -> None:
    broken = side_of(tmp_path / "head", "handler/sse.py", "raise ImportError('no more')")
    with pytest.raises(SideError, match=r"head: the micro paths ended with 1:(.|\n)*no more") as caught:
        count(Pair(side_of(tmp_path / "base"), broken), {"sse": 1})
    assert caught.value.side == "head"


def test_time_shows_it_where_nothing_can_be_counted(sides: Pair[Installation]) -> None:
    plan = Plan(
        duels=(), looks=(8,), budget_s=1, paths={"decode": 1, "validation": 1}, server_core=0, load_core=0, seed=0
    )
    figures = micro_duel.fight(sides, plan, random.Random(0))
    slowdowns = {metric.name: metric.slowdown(*pair) for metric, pair in figures.items()}
    assert set(slowdowns) == {"decode_us", "validation_us"}
    assert slowdowns["decode_us"] > 1.05
