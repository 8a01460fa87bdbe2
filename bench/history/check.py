"""Whether main became slower lately: the change points of each metric, on the processor of the newest commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from bench.errors import BenchError
from bench.history.entry import Better, Entry
from bench.history.otava import ChangePoint, find_change_points

SETTLED_COMMITS = 4
"""A change must have lasted so long: Otava takes a single odd run at the end for one."""

MAX_P_VALUE = 0.001
"""Of all metrics together. Each at that of Otava, two in a hundred series of pure noise have a change at their end."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One metric that changed with one commit and stayed so, for better or worse.

    Attributes:
        metric: its name.
        unit: of the means.
        commit: the first one behind the change. What it changed may have come with one of its neighbours.
        taken_at: when that was measured.
        num_commits: that were measured behind the change, that one included.
        mean_before: back to the change before.
        mean_after: up to the change behind, or the newest commit.
        p_value: of the t-test between both.
        is_worse: whether it is a regression.
    """

    metric: str
    unit: str
    commit: str
    taken_at: str
    num_commits: int
    mean_before: float
    mean_after: float
    p_value: float
    is_worse: bool


class HistoryCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a history.

    Attributes:
        verdict: fail where a change is a regression.
        cpu_model: of the newest commit; what other processors measured was not looked at.
        num_commits: that this processor measured.
        num_last: of those, how many at the end were asked about.
        changes: that lie among them, by metric.
    """

    verdict: Literal["pass", "fail"]
    cpu_model: str
    num_commits: int
    num_last: int
    changes: tuple[Change, ...]


class _Series(msgspec.Struct, frozen=True):
    """One metric, commit by commit where it was measured."""

    metric: str
    unit: str
    better: Better
    entries: list[Entry]
    values: list[float]


def check_history(entries: Sequence[Entry], otava: Path, *, num_last: int, min_magnitude: float) -> HistoryCheck:
    """Look for changes among the newest `num_last` commits that were measured where the newest one was.

    Raises:
        BenchError: there is no commit, or Otava did not do its work.
    """
    if not entries:
        raise BenchError("the history has no commits")
    cpu_model = entries[-1].cpu_model
    measured = [entry for entry in entries if entry.cpu_model == cpu_model]
    series = list(_series(measured))
    found = find_change_points(
        [each.values for each in series],
        otava,
        min_magnitude=min_magnitude,
        max_p_value=MAX_P_VALUE / max(1, len(series)),  # Bonferroni
    )
    recent = {entry.commit for entry in measured[-num_last:]}
    changes = [
        change
        for each, points in zip(series, found, strict=True)
        for change in _settled(each, points)
        if change.commit in recent
    ]
    return HistoryCheck(
        verdict="fail" if any(change.is_worse for change in changes) else "pass",
        cpu_model=cpu_model,
        num_commits=len(measured),
        num_last=min(num_last, len(measured)),
        changes=tuple(changes),
    )


def _series(entries: Sequence[Entry]) -> Iterator[_Series]:
    """Of each metric that the newest commit still has, in its unit of today: another unit began another series."""
    for name, newest in sorted(entries[-1].metrics.items()):
        having = [entry for entry in entries if name in entry.metrics and entry.metrics[name].unit == newest.unit]
        values = [entry.metrics[name].value for entry in having]
        yield _Series(name, newest.unit, newest.better, having, values)


def _settled(series: _Series, points: Sequence[ChangePoint]) -> Iterator[Change]:
    """Changes that lasted, each until the next one or the newest commit."""
    ends = [point.index for point in points] + [len(series.values)]
    for point, end in zip(points, ends[1:], strict=True):
        num_commits = end - point.index
        if num_commits < SETTLED_COMMITS:
            continue
        entry = series.entries[point.index]
        is_higher = point.mean_after > point.mean_before
        yield Change(
            metric=series.metric,
            unit=series.unit,
            commit=entry.commit,
            taken_at=entry.taken_at,
            num_commits=num_commits,
            mean_before=point.mean_before,
            mean_after=point.mean_after,
            p_value=point.p_value,
            is_worse=is_higher == (series.better == "lower"),
        )
