from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.client import StreamSample
from bench.errors import BenchError
from bench.gate.blame import SideError
from bench.gate.function import Function, both_running
from bench.gate.injections import END_TO_END, insert
from bench.gate.pair import Pair
from bench.gate.plan import Plan
from bench.gate.step_duel import about_step_s, step_ms, turn_steps_ms
from handler.engine.snapshot import Snapshot
from tests.bench.gate.sides import SOURCE, side_of
from tests.conftest import TEST_HOME

_PLAN = Plan(duels=(), looks=(8,), budget_s=1, server_core=0, load_core=0, seed=0)


def _stream(*token_times_s: float) -> StreamSample:
    return StreamSample(
        sent_s=0.0,
        token_times_s=token_times_s,
        ended_s=token_times_s[-1],
        prompt_tokens=1,
        completion_tokens=len(token_times_s),
        cached_tokens=None,
        text="",
    )


def _state(function: Function) -> str:
    return Path(f"/proc/{function.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


def test_steps_are_those_that_begin_and_end_in_a_turn() -> None:
    # One step each 1 s; between its turns a side makes none, and sends at once what it had not sent before.
    base = _stream(0.5, *(10.01, 10.5, 11.5, 12.5), *(20.5, 21.5, 22.5), *(30.5, 31.5, 32.5), *(40.5, 41.5))
    head = _stream(0.5, *(13.5, 15.5), *(23.5, 25.5), *(33.5, 35.5), *(43.0, 45.0, 47.0))
    turns = Pair([(10.0, 13.0), (20.0, 23.0), (30.0, 33.0)], [(13.0, 16.0), (23.0, 26.0), (33.0, 36.0)])
    steps_ms = turn_steps_ms(Pair([base], [head]), turns)
    assert steps_ms == Pair([1000.0] * 3, [2000.0] * 3)


def test_turns_in_which_a_stream_had_not_begun_or_had_ended_do_not_count() -> None:
    early, late = _stream(*(0.5 + number for number in range(40))), _stream(*(9.5 + number for number in range(40)))
    turns = [(5.0 * number, 5.0 * number + 4.0) for number in range(10)]  # whole: those from 10 to 39
    assert len(turn_steps_ms(Pair([early, late], [early]), Pair(turns, turns)).base) == 6
    with pytest.raises(BenchError, match="2 whole turns"):
        turn_steps_ms(Pair([early, late], [early]), Pair(turns[:4], turns[:4]))


@pytest.mark.parametrize(
    ("times_s", "step_s"),
    [
        ((1.0, 3.0, 5.0, 7.0), 2.0),
        ((1.0, 1.0, 1.0, 4.0), 1.0),  # most were found at once
        ((6.0, 6.0, 6.0), 2.0),  # all were: so long for each token since it was asked
        ((3.0,), 3.0),
    ],
)
def test_a_step_takes_some_time_whatever_the_client_found(times_s: tuple[float, ...], step_s: float) -> None:
    assert about_step_s([_stream(*times_s)]) == step_s


def test_turns_whose_steps_the_client_found_at_once_do_not_count() -> None:
    late = _stream(0.5, *(5.0 * number + step for number in range(12) for step in (1.0, 1.0, 1.0, 3.0)))
    prompt = _stream(*(0.5 + number for number in range(60)))
    turns = [(5.0 * number, 5.0 * number + 4.0) for number in range(1, 10)]
    assert len(turn_steps_ms(Pair([prompt], [prompt]), Pair(turns, turns)).base) == 9
    with pytest.raises(BenchError, match="0 whole turns"):
        turn_steps_ms(Pair([late], [prompt]), Pair(turns, turns))


def test_a_head_whose_step_is_slower_shows_it(embedded_snapshot: Snapshot, tmp_path: Path) -> None:
    injection = next(each for each in END_TO_END if each.name == "step, 1")
    slower = injection.apply((SOURCE.parent / injection.file).read_text(encoding="utf-8"), 5_000_000)
    sides = Pair(side_of(tmp_path / "base"), side_of(tmp_path / "head", injection.file, slower))
    for side in sides:
        side.home.symlink_to(TEST_HOME)
    with both_running(sides) as functions:
        figures = step_ms(functions, _PLAN, 2, 8, random.Random(0))
        assert [_state(function) for function in functions].count("T") == 0, "both run again"
    assert figures.head > 1.5 * figures.base
    with pytest.raises(FileNotFoundError):
        _state(functions.base)


def test_a_side_that_ends_while_it_decodes_is_named(embedded_snapshot: Snapshot, tmp_path: Path) -> None:
    injection = next(each for each in END_TO_END if each.name == "step, 1")
    source = (SOURCE.parent / injection.file).read_text(encoding="utf-8")
    ending = (
        "type(self).calls = getattr(type(self), 'calls', 0) + 1; type(self).calls > 40 and __import__('os')._exit(3)"
    )
    sides = Pair(
        side_of(tmp_path / "base", injection.file, insert(source, injection.function, ending)),
        side_of(tmp_path / "head"),
    )
    for side in sides:
        side.home.symlink_to(TEST_HOME)
    with both_running(sides) as functions, pytest.raises(SideError, match=r"base: .*connection") as caught:
        step_ms(functions, _PLAN, 2, 10, random.Random(0))
    assert caught.value.side == "base"
