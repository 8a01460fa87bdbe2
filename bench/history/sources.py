"""What a history takes in: the gate's result, and the JSON of the micro benchmarks. Pure but for reading the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.environment import Environment
from bench.errors import BenchError
from bench.gate.result import GateResult
from bench.history.entry import Entry, Metric

_TEST_PREFIX = "test_"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One file: what it measured of which commit, and where."""

    commit: str | None
    environment: Environment
    metrics: dict[str, Metric]


class _Stats(msgspec.Struct, frozen=True):
    """Of one micro benchmark, in seconds. `min`: whatever else the machine does can only add to it."""

    min: float


class _Benchmark(msgspec.Struct, frozen=True):
    name: str
    stats: _Stats


class _MicroResult(msgspec.Struct, frozen=True):
    """What pytest-benchmark writes, as far as it is of use; `environment` is from `bench/micro/conftest.py`."""

    benchmarks: list[_Benchmark]
    environment: Environment


def entry_of(paths: Sequence[Path]) -> Entry:
    """One entry from all results of one commit.

    Raises:
        BenchError: a file is none of the two kinds, they are not of one commit and one processor, or two of them have
            the same metric.
    """
    sources = {path: read_source(path) for path in paths}
    commit = _one("commit", {path: source.commit for path, source in sources.items()})
    cpu_model = _one("processor", {path: source.environment.cpu_model for path, source in sources.items()})
    metrics: dict[str, Metric] = {}
    for path, source in sources.items():
        twice = metrics.keys() & source.metrics.keys()
        if twice:
            raise BenchError(f"{path}: {min(twice)} is in another of the results already")
        metrics |= source.metrics
    taken_at = max(source.environment.taken_at for source in sources.values())
    return Entry(commit=commit, taken_at=taken_at, cpu_model=cpu_model, metrics=metrics)


def read_source(path: Path) -> Source:
    """What one file measured.

    Raises:
        BenchError: it cannot be read, is none of the two kinds, or was measured of a checkout with changes.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _of_gate(msgspec.json.decode(content, type=GateResult))
    except msgspec.DecodeError as not_gate:
        try:
            return _of_micro(msgspec.json.decode(content, type=_MicroResult), path)
        except msgspec.DecodeError as not_micro:
            raise BenchError(
                f"{path}: neither a result of the gate ({not_gate}) nor of the micro benchmarks ({not_micro})"
            ) from not_micro


def _of_gate(result: GateResult) -> Source:
    """The head's medians. Of the units, a rate alone is better when it is higher."""
    metrics = {
        f"gate.{metric.name}": Metric(
            value=metric.head_median, unit=metric.unit, better="higher" if metric.unit.endswith("/s") else "lower"
        )
        for metric in result.metrics
    }
    return Source(commit=result.head.commit, environment=result.environment, metrics=metrics)


def _of_micro(result: _MicroResult, path: Path) -> Source:
    if result.environment.is_modified:
        raise BenchError(f"{path}: the checkout had changes that are in no commit")
    metrics = {
        f"micro.{benchmark.name.removeprefix(_TEST_PREFIX)}": Metric(
            value=benchmark.stats.min, unit="s", better="lower"
        )
        for benchmark in result.benchmarks
    }
    return Source(commit=result.environment.commit, environment=result.environment, metrics=metrics)


def _one(what: str, values: dict[Path, str | None]) -> str:
    """The value that all files share."""
    different = sorted({str(value) for value in values.values()})
    value = next(iter(values.values()), None)
    if value is None or len(different) != 1:
        raise BenchError(f"the results must be of one {what}, and say which: {', '.join(different)}")
    return value
