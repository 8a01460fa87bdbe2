from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import bench
from bench.gate.calibration import calibrate
from bench.gate.clone import Clone
from bench.gate.injections import END_TO_END, MICRO, Injection
from bench.gate.result import GateResult

_SSE = next(each for each in MICRO if each.name == "sse")
_MEMORY = next(each for each in END_TO_END if each.name == "memory")


class _ScriptedClone(Clone):
    """A clone that says what each amount comes to."""

    def __init__(self, *slowdowns: float) -> None:
        self.base = "a" * 40
        self.injected: list[int] = []
        self.options: list[tuple[str, ...]] = []
        self._slowdowns = list(slowdowns)

    def inject(self, injection: Injection, amount: int) -> None:
        self.injected.append(amount)

    def time(self, path: str, num_rounds: int) -> float:
        return self._slowdowns.pop(0)

    def gate(self, *options: str) -> GateResult:
        self.options.append(options)
        slowdown = self._slowdowns.pop(0)
        verdict = SimpleNamespace(name=_MEMORY.metric.name, base=(100.0,), head=(100.0 * slowdown,))
        result: Any = SimpleNamespace(metrics=[verdict])
        return cast("GateResult", result)


def _changes(clone: Path) -> list[str]:
    command = ["git", "-C", str(clone), "diff", "HEAD~1", "HEAD", "--unified=0"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in shown if line.startswith(("+", "-")) and not line.startswith(("+++", "---"))]


def test_an_amount_is_approached_by_one_for_twice_as_much() -> None:
    clone = _ScriptedClone(1.3, 1.08, 1.04)
    found = calibrate(_SSE, clone)
    assert clone.injected == [180, 60, 37]  # 10 %, where 180 were 30; then 5, where 60 turned out to be 8
    assert (found.injection, found.probe, found.slowdown) == ("sse", 37, 1.04)
    assert found.amount == 46  # for 37 came to 4


def test_what_is_small_is_measured_several_times() -> None:
    clone = _ScriptedClone(1.3, 1.2, 1.05, 1.08, 1.3)
    found = calibrate(_MEMORY, clone)
    assert clone.injected == [150_000_000, 100_000_000, 50_000_000]
    assert [options[-2:] for options in clone.options[-3:]] == [("--seed", "0"), ("--seed", "1"), ("--seed", "2")]
    assert found.slowdown == 1.08  # one of the three was out of line
    assert found.amount == 62_500_000


def test_a_probe_that_does_not_show_is_made_larger() -> None:
    clone = _ScriptedClone(1.01, 1.1, 1.5, 1.1, 1.05)
    calibrate(_SSE, clone)
    assert clone.injected[:3] == [_SSE.probe, _SSE.probe * 3, _SSE.probe * 9]
    for slowdowns in ((1.0, 1.0, 1.0, 1.0), (1.3, 1.0), (1.3, 1.1, 1.0)):
        with pytest.raises(SystemExit, match=r"did not show \(1.000\)"):
            calibrate(_SSE, _ScriptedClone(*slowdowns))


def test_the_copy_differs_by_one_change_and_a_path_that_was_slowed_down_takes_longer(tmp_path: Path) -> None:
    clone = Clone(Path(bench.__file__).parent.parent, tmp_path / "clone")
    clone.inject(_MEMORY, 20_000_000)
    assert _changes(tmp_path / "clone") == ["+    gc.ballast = b'x' * 20000000"]
    clone.change_comment()  # what was injected before is gone
    assert _changes(tmp_path / "clone") == ["+", "+# Nothing."]
    clone.inject(_SSE, _SSE.probe * 10)
    assert clone.time("sse", 1) > 1.5
