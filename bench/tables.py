"""Shows a result on a terminal. What it leaves out is in the JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.environment import Environment
from bench.result import Result
from bench.stats import Summary

_WIDTH_OF_A_PIPE = 160


def show(result: Result) -> None:
    """Print environment, figures, ratios, profile and failures to stdout."""
    console = open_console()
    console.print(f"{describe(result.environment)}; {result.plan['rounds']} rounds", markup=False)
    for contender, metrics in sorted(result.summary.items()):
        console.print(_table(contender, {name: _cell(name, summary) for name, summary in sorted(metrics.items())}))
    if result.ratios:
        console.print(_table("ratios", {ratio.name: _numbers(ratio.summary, 1.0) for ratio in result.ratios}))
    for size, profile in (result.profile or {}).items():
        console.print(_table(f"a step of {size}, by stage", _stages(profile), ""))
    for failure in result.failures:
        console.print(f"failed: {failure.contender}, round {failure.round_number + 1}: {failure.error}", markup=False)


def open_console() -> Console:
    """Where tables go: a terminal as wide as it is, or a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_PIPE
    return console


def describe(environment: Environment) -> str:
    """On what and of what code a measurement is, in a line."""
    cards = "".join(f", {gpu.name} (driver {gpu.driver})" for gpu in environment.gpus)
    return (
        f"{environment.cpu_model}, {environment.num_cpus} CPUs{cards}; torch {environment.packages.get('torch')}; "
        f"commit {environment.commit}{' (modified)' if environment.is_modified else ''}; "
        f"load {environment.load_average[0]:.2f}"
    )


def _table(title: str, rows: dict[str, str], header: str = "median (low to high)") -> Table:
    table = Table("", header, title=title, title_justify="left", box=None, pad_edge=False)
    for name, value in rows.items():
        table.add_row(Text(name), value)
    return table


def _cell(metric: str, summary: Summary) -> str:
    unit = metric.partition("@")[0].rpartition("_")[2]
    if unit == "bytes":
        return f"{_numbers(summary, 2**20)} MiB"
    if metric.partition("@")[0].endswith("bytes_per_s"):
        return f"{_numbers(summary, 1e9)} GB/s"
    return _numbers(summary, 1.0)


def _numbers(summary: Summary, scale: float) -> str:
    median, low, high = (value / scale for value in (summary.median, summary.low, summary.high))
    return f"{median:.4g} ({low:.4g} to {high:.4g})"


def _stages(profile: dict[str, Any]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in profile["stages"].items()}
