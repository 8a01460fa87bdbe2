"""Curves over the load: throughput, what of it kept its objectives, and p99, against connections and arrivals. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bench.compare.points import Engine, LoadPoint, Workload
from bench.report.numbers import exact, figure, short
from bench.report.panels import Panel, Table, TableCell, missing, named, shown
from bench.report.plot import Dot, Line, Plot, Void
from bench.report.samples import Cell, Curve, Sample, at_share, chosen, curve
from bench.report.scales import Tick, fitted, from_zero
from bench.report.stacks import Stack, stacks_in

_WORDS: dict[Workload, str] = {"chat": "whole answers", "stream": "streamed answers"}


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn over the load."""

    key: str
    title: str
    label: str
    value_of: Callable[[LoadPoint], float | None]
    diagonal: bool = False
    reaches_zero: bool = False


_THROUGHPUT = Quantity(
    key="throughput", title="Throughput", label="requests/s", value_of=lambda point: point.requests_per_s
)
_P99 = Quantity(
    key="p99", title="99th percentile", label="latency, ms", value_of=lambda point: at_share(point.latency_ms, 0.99)
)
_KEPT_UP = msgspec.structs.replace(_THROUGHPUT, diagonal=True)
_GOODPUT = Quantity(
    key="goodput",
    title="Goodput",
    label="requests/s within the objectives",
    value_of=lambda point: point.goodput_per_s,
    diagonal=True,
    reaches_zero=True,
)


def closed_panels(samples: list[Sample], engine: Engine) -> tuple[Panel, ...]:
    """Throughput and p99 against connections, where there is more than one number of connections."""
    panels = []
    for workload in _WORDS:
        found = chosen(samples, engine=engine, workloads=[workload], is_open=False)
        if len({sample.point.connections for sample in found}) > 1:
            panels += [_panel(found, quantity, engine, workload, "connections") for quantity in (_THROUGHPUT, _P99)]
    return tuple(panel for panel in panels if panel is not None)


def open_panels(samples: list[Sample], engine: Engine) -> tuple[Panel, ...]:
    """Throughput, goodput and p99 against arrivals."""
    panels = []
    for workload in _WORDS:
        found = chosen(samples, engine=engine, workloads=[workload], is_open=True)
        if len({sample.point.offered_per_s for sample in found}) > 1:
            quantities = (_KEPT_UP, _GOODPUT, _P99)
            panels += [_panel(found, quantity, engine, workload, "arrivals/s") for quantity in quantities]
    return tuple(panel for panel in panels if panel is not None)


def _panel(samples: list[Sample], quantity: Quantity, engine: Engine, workload: Workload, load: str) -> Panel | None:
    found = curve(samples, quantity.value_of)
    if not found.xs:
        return None
    stacks = stacks_in(found.cells)
    lines = tuple(_line(stack, found.cells[stack.name], load) for stack in stacks)
    values = [value for line in lines for dot in line.dots for value in (dot.y, dot.low, dot.high) if value is not None]
    x = fitted(found.xs)
    is_linear = quantity.reaches_zero or (quantity.diagonal and x.kind == "linear")
    y = from_zero(values) if is_linear else fitted(values)
    name = "connections" if load == "connections" else "arrivals"
    title = f"{quantity.title}, {_WORDS[workload]}"
    plot = Plot(
        key=f"{engine}-{workload}-{quantity.key}-{name}",
        title=title,
        description=f"One line for each server: {quantity.label} over {load}. The table below holds the same figures.",
        x=x,
        y=y,
        x_label=load,
        y_label=quantity.label,
        x_ticks=tuple(Tick(x, short(x)) for x in found.xs),
        lines=tuple(line for line in lines if line.runs),
        voids=tuple(void for stack in stacks for void in _voids(stack, found.cells[stack.name], load)),
        diagonal=quantity.diagonal,
    )
    return Panel(plot, _table(title, found, stacks, load))


def _line(stack: Stack, cells: dict[float, Cell], load: str) -> Line:
    runs: list[list[Dot]] = [[]]
    for x, cell in cells.items():
        if cell.summary is None:
            runs.append([])
            continue
        shown_as = figure(cell.summary)
        note = f"{stack.label}, {exact(x)} {load}: {shown_as.text}"
        if shown_as.interval:
            note += f" ({shown_as.interval})"
        if cell.num_invalid:
            note += f"; {cell.num_invalid} rounds invalid"
        low, high = cell.summary.interval or (None, None)
        runs[-1].append(Dot(x, cell.summary.median, low, high, note))
    return Line(stack, tuple(tuple(run) for run in runs if run))


def _voids(stack: Stack, cells: dict[float, Cell], load: str) -> list[Void]:
    return [
        Void(stack, x, f"{stack.label}, {exact(x)} {load}: invalid, {cell.reason}")
        for x, cell in cells.items()
        if cell.summary is None
    ]


def _table(title: str, found: Curve, stacks: list[Stack], load: str) -> Table:
    rows = tuple((named(exact(x)), *(_shown(found.cells[stack.name].get(x)) for stack in stacks)) for x in found.xs)
    return Table(title, (load, *(stack.label for stack in stacks)), rows)


def _shown(cell: Cell | None) -> TableCell:
    if cell is None:
        return missing(None)
    return missing("invalid") if cell.summary is None else shown(figure(cell.summary))
