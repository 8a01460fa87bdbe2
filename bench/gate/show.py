"""Shows what the gate says on a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from bench.gate.result import GateResult, MetricVerdict
from bench.tables import describe, open_console

_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}


def show(result: GateResult) -> None:
    """Print the verdict, and what it rests on, to stdout."""
    console = open_console()
    console.print(f"{describe(result.environment)}; {result.num_rounds} rounds", markup=False)
    columns = ("", "base", "head", "unit", "slowdown", "95 % interval", "limit", "verdict")
    table = Table(*columns, box=None, pad_edge=False)
    for metric in result.metrics:
        table.add_row(*_cells(metric), Text(metric.verdict, _STYLES[metric.verdict]))
    console.print(table)
    for line in (*result.notes, *(f"failed: {error}" for error in result.errors)):
        console.print(line, markup=False)
    sides = f"{result.head.name} ({result.head.commit[:10]}) against {result.base.name} ({result.base.commit[:10]})"
    console.print(Text(f"{result.verdict}: {sides}, in {result.duration_s:.0f} s", _STYLES[result.verdict]))


def _cells(metric: MetricVerdict) -> tuple[str, ...]:
    interval = "" if metric.interval is None else f"{metric.interval[0]:.3f} to {metric.interval[1]:.3f}"
    scale, unit = (2**20, "MiB") if metric.unit == "bytes" else (1, metric.unit)
    figures = (f"{value / scale:.5g}" for value in (metric.base_median, metric.head_median))
    return (metric.label, *figures, unit, f"{metric.slowdown:.3f}", interval, f"{metric.limit:.2f}")
