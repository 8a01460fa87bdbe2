"""Apache Otava, which looks for change points in series (Hunter's E-divisive). Knows no commits and no metrics.

It runs in a process of its own, from an environment of its own: it holds numpy and scipy below the harness's versions.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from bench.errors import BenchError

_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
_COLUMN = "value"
_TIMEOUT_S = 300.0
_P_VALUE = "-P, --p-value"
"""One option: so is its name written in 0.8.0, where two were meant."""


class ChangePoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a series changes: its values from `index` on are of another distribution than those before."""

    index: int
    mean_before: float
    mean_after: float
    p_value: float


class _Change(msgspec.Struct, frozen=True):
    """As Otava prints it: numbers are strings with six places."""

    index: int
    mean_before: str
    mean_after: str
    pvalue: str


class _Group(msgspec.Struct, frozen=True):
    changes: list[_Change]


def default_otava() -> Path:
    """Where `make otava` puts it: beside the running interpreter."""
    return Path(sys.prefix) / "otava" / "bin" / "otava"


def find_change_points(
    series: Sequence[Sequence[float]], otava: Path, *, min_magnitude: float, max_p_value: float
) -> list[list[ChangePoint]]:
    """The change points of each series, in order.

    Args:
        series: in the order of time, and not empty.
        otava: the program.
        min_magnitude: smaller changes of the mean are left out; 0.01 is 1 %.
        max_p_value: of the t-test between both sides; Otava's own is 0.001.

    Raises:
        BenchError: there is no such program, or it did not do its work.
    """
    if not series:
        return []
    options = ["--magnitude", str(min_magnitude), _P_VALUE, str(max_p_value)]
    with tempfile.TemporaryDirectory(prefix="pilotlight-history-") as name:
        directory = Path(name)
        scales = [_write_series(directory / f"{number}.csv", values) for number, values in enumerate(series)]
        printed = _run(otava, directory, len(series), options)
    return [_change_points(printed.get(str(number)), number, scale) for number, scale in enumerate(scales)]


def _write_series(path: Path, values: Sequence[float]) -> float:
    """Write a series as shares of its largest value, which is returned: Otava prints six places, whatever the unit.

    Times are made up: of real ones Otava leaves out those that are older than a year.
    """
    scale = max(map(abs, values)) or 1.0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time", _COLUMN])
        for index, value in enumerate(values):
            writer.writerow([(_FIRST + timedelta(seconds=index)).isoformat(), value / scale])
    return scale


def _run(otava: Path, directory: Path, num_series: int, options: list[str]) -> dict[str, list[_Group]]:
    """What it prints of each test: a JSON object on a line."""
    names = [str(number) for number in range(num_series)]
    metrics = {_COLUMN: {"column": _COLUMN}}
    tests = {name: {"type": "csv", "file": str(directory / f"{name}.csv"), "metrics": metrics} for name in names}
    config = directory / "otava.yaml"
    config.write_bytes(msgspec.json.encode({"tests": tests}))  # JSON is YAML
    command = [str(otava), "analyze", *names, "--output", "json", "--since", _FIRST.date().isoformat(), *options]
    environ = {"PATH": os.environ.get("PATH", ""), "HOME": str(directory), "OTAVA_CONFIG": str(config)}
    try:
        done = subprocess.run(  # noqa: S603  (the program that the user names)
            command, env=environ, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise BenchError(f"{otava} is not there: make otava installs it, --otava names another") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{otava} could not run: {error}") from error
    if done.returncode != 0:
        raise BenchError(f"{otava} ended with {done.returncode}: {_complaint(done.stderr)}")
    printed: dict[str, list[_Group]] = {}
    for line in done.stdout.splitlines():
        try:
            printed |= msgspec.json.decode(line, type=dict[str, list[_Group]])
        except msgspec.DecodeError as error:
            raise BenchError(f"{otava} printed what is no report: {line[:200]!r}") from error
    if len(printed) != num_series:  # of a test that it cannot read it says so, and ends well
        raise BenchError(f"{otava} left out {num_series - len(printed)} series: {_complaint(done.stderr)}")
    return printed


def _change_points(groups: list[_Group] | None, number: int, scale: float) -> list[ChangePoint]:
    if groups is None:
        raise BenchError(f"otava said nothing of series {number}")
    try:
        return [
            ChangePoint(
                index=change.index,
                mean_before=float(change.mean_before) * scale,
                mean_after=float(change.mean_after) * scale,
                p_value=float(change.pvalue),
            )
            for group in groups
            for change in group.changes
        ]
    except ValueError as error:
        raise BenchError(f"otava printed what is no number: {error}") from error


def _complaint(stderr: str) -> str:
    """The last thing that it complained of."""
    lines = [line for line in stderr.splitlines() if not line.startswith("INFO:")]
    return lines[-1] if lines else "it did not say why"
