from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.errors import BenchError
from bench.history.check import HistoryCheck, check_history
from bench.history.entry import Entry, Metric
from tests.bench.history.series import commit_of, entry, noisy, stepped


def check(entries: list[Entry], otava: Path, num_last: int = 20) -> HistoryCheck:
    return check_history(entries, otava, num_last=num_last, min_magnitude=0.01)


def history(**metrics: list[float]) -> list[Entry]:
    length = len(next(iter(metrics.values())))
    return [entry(number, {name: values[number] for name, values in metrics.items()}) for number in range(length)]


def test_a_step_of_5_percent_in_noise_of_2_is_found_and_noise_alone_is_not(otava: Path) -> None:
    noise = {f"steady{seed}": noisy(60, seed=seed) for seed in range(10, 20)}
    result = check(history(**noise, p99=stepped(noisy(60, seed=3), at=50, by=1.05)), otava)
    (change,) = result.changes
    assert (result.verdict, change.metric, change.is_worse) == ("fail", "p99", True)
    assert change.commit in {commit_of(49), commit_of(50), commit_of(51)}
    assert change.mean_after / change.mean_before == pytest.approx(1.05, abs=0.02)


def test_only_changes_for_the_worse_that_last_are_regressions(otava: Path) -> None:
    steady = noisy(40, seed=5)
    better = history(
        cheaper=stepped(steady, at=30, by=0.9),
        more_per_s=stepped(steady, at=30, by=1.1),
        odd_at_the_end=[*steady[:-1], 1.3],
        odd_before=[*steady[:30], 1.3, *steady[31:]],
    )
    result = check(better, otava)
    assert result.verdict == "pass"
    assert {change.metric for change in result.changes} == {"cheaper", "more_per_s"}
    (change,) = check(history(fewer_per_s=stepped(steady, at=30, by=0.9)), otava).changes
    assert change.is_worse


def test_what_is_long_ago_is_not_asked_about(otava: Path) -> None:
    entries = history(p99=stepped(noisy(60, seed=7), at=30, by=1.1))
    assert check(entries, otava, num_last=20).verdict == "pass"
    assert check(entries, otava, num_last=40).verdict == "fail"


def test_two_processors_are_two_series(otava: Path) -> None:
    mixed = [
        entry(number, {"p99": value * (1.5 if number % 2 else 1.0)}, "Slow" if number % 2 else "Quick")
        for number, value in enumerate(noisy(60, seed=8))
    ]
    result = check(mixed, otava)
    assert (result.cpu_model, result.num_commits, result.changes) == ("Slow", 30, ())
    slower = [
        each if number < 45 else entry(number, {"p99": each.metrics["p99"].value * 1.1}, each.cpu_model)
        for number, each in enumerate(mixed)
    ]
    assert check(slower, otava).verdict == "fail"


def test_another_unit_is_another_series(otava: Path) -> None:
    entries = history(p99=noisy(40, seed=9))
    for number in range(20):
        in_s = {"p99": Metric(value=entries[number].metrics["p99"].value / 1000, unit="s", better="lower")}
        entries[number] = msgspec.structs.replace(entries[number], metrics=in_s)
    assert check(entries, otava).changes == ()


def test_a_history_without_commits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no commits"):
        check([], tmp_path)
