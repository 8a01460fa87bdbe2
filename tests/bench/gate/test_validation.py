from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import bench
from bench.gate.metrics import PEAK_RSS
from bench.gate.validation import Kind, Run, Validation, loop_s, next_kind, summary


def _run(kind: Kind, verdict: str, *, is_right: bool, base: float = 1e8, duration_s: float = 100.0) -> Run:
    return Run(
        kind=kind,
        injection=None if kind == "same" else "memory",
        amount=0,
        verdict=verdict,
        failed=(),
        inconclusive=(),
        slowdowns={},
        base={PEAK_RSS.name: base},
        rounds={},
        loop_s=1e-8,
        num_rounds=8,
        duration_s=duration_s,
        load_average=0.0,
        is_right=is_right,
    )


@pytest.fixture
def validation(tmp_path: Path) -> Validation:
    return Validation(Path(bench.__file__).parent.parent, tmp_path / "clone")


def _changes(tmp_path: Path) -> list[str]:
    command = ["git", "-C", str(tmp_path / "clone"), "diff", "HEAD~1", "HEAD", "--unified=0"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in shown if line.startswith(("+", "-")) and not line.startswith(("+++", "---"))]


def test_two_sides_that_are_the_same_differ_by_a_comment(validation: Validation, tmp_path: Path) -> None:
    assert validation._inject("same", 0, []) == (None, 0)
    assert _changes(tmp_path) == ["+", "+# Nothing."]


def test_an_injection_is_a_tenth_of_what_runs_without_one_came_to(validation: Validation, tmp_path: Path) -> None:
    same = [_run("same", "pass", is_right=True, base=base) for base in (9e8, 1e8, 2e8)]
    injection, amount = validation._inject("end-to-end", 6, same)
    assert injection is not None
    assert (injection.metric, amount) == (PEAK_RSS, 20_000_000)
    assert _changes(tmp_path) == ["+    gc.ballast = b'x' * 20000000"]
    validation._inject("same", 0, same)  # what was injected before is gone
    assert _changes(tmp_path) == ["+", "+# Nothing."]


def test_without_a_run_that_injects_nothing_nobody_knows_what_a_tenth_is(validation: Validation) -> None:
    with pytest.raises(SystemExit, match="come first"):
        validation._inject("end-to-end", 6, [])


def test_a_summary_counts_what_was_right() -> None:
    runs = [
        _run("same", "pass", is_right=True),
        _run("same", "inconclusive", is_right=True, duration_s=300.0),
        _run("same", "fail", is_right=False),
        _run("end-to-end", "fail", is_right=True),
    ]
    assert list(summary(runs)) == [
        "same: right in 2 of 3, inconclusive in 1; took 100 s, 300 s at most",
        "end-to-end: right in 1 of 1, inconclusive in 0; took 100 s, 100 s at most",
    ]


def test_a_turn_of_a_loop_takes_nanoseconds() -> None:
    assert 1e-10 < loop_s() < 1e-6


def test_runs_of_all_kinds_keep_step_and_those_that_inject_nothing_come_first() -> None:
    wanted: dict[Kind, int] = {"same": 4, "end-to-end": 2, "micro": 0}
    runs: list[Run] = []
    while (kind := next_kind(wanted, runs)) is not None:
        runs.append(_run(kind, "pass", is_right=True))
    assert [run.kind for run in runs] == ["same", "end-to-end", "same", "same", "end-to-end", "same"]
