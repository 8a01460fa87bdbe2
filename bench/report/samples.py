"""All loads of a comparison, gathered by server and by load over the rounds. Pure; knows no charts.

A point that its load declared invalid says nothing of the server: it counts in no figure, and is only ever named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from bench.compare.points import Engine, LoadPoint, Workload
from bench.errors import BenchError
from bench.report.numbers import exact
from bench.result import Result
from bench.stats import Summary, summarise


class Sample(msgspec.Struct, frozen=True):
    """One point of one server in one round."""

    stack: str
    round_number: int
    point: LoadPoint


class Cell(msgspec.Struct, frozen=True):
    """What the rounds say of one server under one load.

    Attributes:
        summary: over the valid rounds, None where there is none.
        num_invalid: rounds that say nothing.
        reason: of the first of them.
    """

    summary: Summary | None
    num_invalid: int
    reason: str | None


class Curve(msgspec.Struct, frozen=True):
    """One quantity of some servers at some values of x."""

    xs: tuple[float, ...]
    cells: dict[str, dict[float, Cell]]


def samples_of(result: Result) -> list[Sample]:
    """Every point of the comparison.

    Raises:
        BenchError: a round holds something else.
    """
    found: list[Sample] = []
    for entry in result.rounds:
        try:
            points = msgspec.convert(entry.details.get("points", []), list[LoadPoint])
        except msgspec.ValidationError as error:
            where = f"{entry.contender}, round {entry.round_number + 1}"
            raise BenchError(f"the points of {where} cannot be read: {error}") from error
        found.extend(Sample(entry.contender, entry.round_number, point) for point in points)
    return found


def chosen(samples: Iterable[Sample], *, engine: Engine, workloads: Sequence[Workload], is_open: bool) -> list[Sample]:
    """Those of an engine, of some workloads, and of open or of closed loops."""
    return [
        sample
        for sample in samples
        if sample.point.engine == engine
        and sample.point.workload in workloads
        and (sample.point.offered_per_s is not None) == is_open
    ]


def load_of(point: LoadPoint) -> float:
    """What makes it a heavy load or a light one: arrivals per second, or connections.

    Raises:
        BenchError: it has neither.
    """
    load = point.offered_per_s if point.offered_per_s is not None else point.connections
    if load is None:
        raise BenchError(f"a point of {point.workload} has neither connections nor arrivals")
    return float(load)


def load_label(point: LoadPoint) -> str:
    """The load in words."""
    if point.offered_per_s is not None:
        return f"{exact(point.offered_per_s)} arrival{'' if point.offered_per_s == 1 else 's'}/s"
    return f"{point.connections:,} connections" if point.connections != 1 else "1 connection"


def curve(samples: Iterable[Sample], value_of: Callable[[LoadPoint], float | None]) -> Curve:
    """A quantity against the load; samples that do not have it are left out, those that are invalid are counted."""
    values: dict[str, dict[float, list[float]]] = {}
    reasons: dict[str, dict[float, list[str]]] = {}
    for sample in samples:
        value, load = value_of(sample.point), load_of(sample.point)
        if sample.point.invalid is not None:
            reasons.setdefault(sample.stack, {}).setdefault(load, []).append(sample.point.invalid)
        elif value is not None:
            values.setdefault(sample.stack, {}).setdefault(load, []).append(value)
    cells = {
        stack: {
            load: _cell(values.get(stack, {}).get(load, []), reasons.get(stack, {}).get(load, []))
            for load in sorted({*values.get(stack, {}), *reasons.get(stack, {})})
        }
        for stack in sorted({*values, *reasons})
    }
    if not any(values.values()):
        return Curve((), {})
    return Curve(tuple(sorted({load for by_load in cells.values() for load in by_load})), cells)


def at_share(cdf: Sequence[tuple[float, float]], share: float) -> float | None:
    """Milliseconds that this share of the samples did not exceed; None for no samples."""
    return next((value_ms for reached, value_ms in cdf if reached >= share - 1e-12), None)


def whole_share(point: LoadPoint) -> float | None:
    """Of its requests, the share that ended whole and right; None where there were none."""
    num_whole = point.requests_per_s * point.seconds
    num_all = num_whole + sum(point.failures.values())
    return num_whole / num_all if num_all else None


def _cell(values: list[float], reasons: list[str]) -> Cell:
    return Cell(summarise(values) if values else None, len(reasons), reasons[0] if reasons else None)
