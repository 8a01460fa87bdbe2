"""One load second by second: whether a server held its pace, and when it stumbled. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.load.plan import Second
from bench.report.numbers import number, short
from bench.report.panels import Panel, Table, TableCell, missing, named
from bench.report.plot import Dot, Line, Plot
from bench.report.samples import Sample, load_label, load_of
from bench.report.scales import Scale, Tick, fitted
from bench.report.stacks import Stack, stacks_in

_Values = dict[int, float | None]
"""By second."""


def timeline_panels(samples: list[Sample]) -> tuple[Panel, ...]:
    """Throughput and p99 by second of the heaviest load that most servers bore, in the first round of them all."""
    picked = _picked([sample for sample in samples if sample.point.invalid is None and sample.point.timeline])
    if not picked:
        return ()
    load = load_label(picked[0].point)
    return (
        _panel(
            picked, "completed", f"Throughput by second, {load}", "requests/s", lambda second: float(second.completed)
        ),
        _panel(picked, "p99", f"99th percentile by second, {load}", "latency, ms", lambda second: second.p99_ms),
    )


def _picked(samples: list[Sample]) -> list[Sample]:
    """Those of one load: streams before whole answers, arrivals before connections, stub before model, the heaviest."""
    groups: dict[tuple[bool, bool, bool, float, int], list[Sample]] = {}
    for sample in samples:
        point = sample.point
        kind = (point.workload == "stream", point.offered_per_s is not None, point.engine == "stub")
        groups.setdefault((*kind, load_of(point), -sample.round_number), []).append(sample)
    most = max((len({sample.stack for sample in group}) for group in groups.values()), default=0)
    for key in sorted(groups, reverse=True):
        if len({sample.stack for sample in groups[key]}) == most:
            return groups[key]
    return []


def _panel(
    samples: list[Sample], key: str, title: str, label: str, value_of: Callable[[Second], float | None]
) -> Panel:
    stacks = stacks_in(sample.stack for sample in samples)
    values: dict[str, _Values] = {
        sample.stack: {second.at_s: value_of(second) for second in sample.point.timeline} for sample in samples
    }
    seconds = sorted({at_s for by_second in values.values() for at_s in by_second})
    lines = tuple(Line(stack, _runs(stack, values[stack.name], label)) for stack in stacks)
    plot = Plot(
        key=f"timeline-{key}",
        title=title,
        description=f"One line for each server: {label} in each second. The same figures stand in the table below.",
        x=Scale("linear", float(seconds[0]), float(max(seconds[-1], seconds[0] + 1))),
        y=fitted([dot.y for line in lines for dot in line.dots]),
        x_label="seconds since the load began",
        y_label=label,
        x_ticks=tuple(Tick(float(at_s), short(at_s)) for at_s in seconds),
        lines=tuple(line for line in lines if line.runs),
    )
    return Panel(plot, _table(title, stacks, values, seconds))


def _runs(stack: Stack, values: _Values, label: str) -> tuple[tuple[Dot, ...], ...]:
    runs: list[list[Dot]] = [[]]
    for at_s, value in values.items():
        if value is None:
            runs.append([])
        else:
            runs[-1].append(Dot(float(at_s), value, note=f"{stack.label}, second {at_s}: {number(value)} {label}"))
    return tuple(tuple(run) for run in runs if run)


def _table(title: str, stacks: Sequence[Stack], values: dict[str, _Values], seconds: Sequence[int]) -> Table:
    rows = tuple((named(str(at_s)), *(_cell(values[stack.name].get(at_s)) for stack in stacks)) for at_s in seconds)
    return Table(title, ("second", *(stack.label for stack in stacks)), rows)


def _cell(value: float | None) -> TableCell:
    return missing(None) if value is None else TableCell(number(value))
