from __future__ import annotations

import importlib

import pytest

from bench.engine import stages
from bench.engine.driver import running
from bench.engine.profile import profile_steps
from bench.engine.stages import STAGES, StageClock
from bench.errors import BenchError
from tests.conftest import LoadTiny


def methods() -> list[object]:
    places = [place for places in STAGES.values() for place in places]
    return [getattr(getattr(importlib.import_module(module), owner), method) for module, owner, method in places]


def test_stages_add_up_and_the_engine_is_as_it_was(load_tiny: LoadTiny) -> None:
    before = methods()
    core = load_tiny()
    with running(core, [[1, 2, 3], [4, 5]]) as batch:
        profile = profile_steps(batch, 4)
    split = profile["stages"]
    named = [split[f"{stage}_ms"] for stage in STAGES]
    assert all(split[f"{stage}_ms"] > 0 for stage in ("schedule", "forward", "sample", "output"))
    assert split["wait_ms"] == 0
    assert split["other_ms"] > 0
    assert sum(named) + split["other_ms"] == pytest.approx(split["step_ms"])
    assert methods() == before
    assert all(row["cpu_ms_per_step"] > 0 for row in profile["operators"][:3])
    assert any(row["name"].startswith("aten::") for row in profile["operators"])
    assert all(row["calls_per_step"] > 0 for row in profile["functions"])
    assert any(row["name"].startswith("handler/engine/") for row in profile["functions"])


class Outer:
    def work(self, inner: Inner) -> int:
        return inner.work() + inner.work()


class Inner:
    def work(self) -> int:
        return 1


def test_a_stage_in_a_stage_counts_for_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks once at every look: the outer work looks twice, and twice more for each inner one."""
    ticks = iter(range(100))
    monkeypatch.setattr(stages, "STAGES", {"out": ((__name__, "Outer", "work"),), "in": ((__name__, "Inner", "work"),)})
    monkeypatch.setattr(stages.time, "perf_counter", lambda: float(next(ticks)))
    with StageClock() as clock:
        assert Outer().work(Inner()) == 2
    assert clock.seconds == {"out": 3.0, "in": 2.0}


def test_a_method_that_went_away_is_told_and_nothing_stays_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Inner.work
    monkeypatch.setattr(stages, "STAGES", {"in": ((__name__, "Inner", "work"), (__name__, "Inner", "gone"))})
    with pytest.raises(BenchError, match="the stage in is gone of a class"), StageClock():
        pass
    assert Inner.work is before
