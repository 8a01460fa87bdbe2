"""Shows a comparison on a terminal: measured figures beside quoted ones, ratios, goals. The rest is in the JSON."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.baselines.plan import STACKS
from bench.compare.goals import GoalOutcome, goal_outcomes
from bench.compare.quoted import QUOTED, QuotedTable
from bench.result import Ratio, Result
from bench.stats import Summary
from bench.tables import describe, open_console

_NOISE_SHARE = 0.1


def show(result: Result) -> None:
    """Print all tables to stdout."""
    console = open_console()
    rounds, chat_rounds = result.plan["rounds"], result.plan["chat_rounds"]
    console.print(f"{describe(result.environment)}; {rounds} rounds, {chat_rounds} of chats", markup=False)
    for quoted in QUOTED:
        console.print(_beside_quoted(quoted, result))
    console.print(_ratios(result.ratios))
    _show_invalid(result, console)
    _show_noise(result, console)
    for failure in result.failures:
        console.print(f"failed: {failure.contender}, round {failure.round_number + 1}: {failure.error}", markup=False)
    for outcome in goal_outcomes(result.ratios):
        console.print(goal_line(outcome), markup=False)


def goal_line(outcome: GoalOutcome) -> str:
    """What became of one goal."""
    said = f"{outcome.verdict}: {outcome.goal.text}"
    return said if outcome.ratio is None else f"{said}: {_interval(outcome.ratio)}"


def _beside_quoted(quoted: QuotedTable, result: Result) -> Table:
    table = Table(title=f"{quoted.title}: measured, and as quoted", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for heading, _ in quoted.columns:
        table.add_column(heading, justify="right")
        table.add_column("quoted", justify="right")
    for stack in (stack for stack in STACKS if stack in result.summary):
        cells = []
        figures = quoted.rows.get(stack, (None,) * len(quoted.columns))
        for (_, metric), figure in zip(quoted.columns, figures, strict=True):
            cells.append(_measured(result.summary[stack].get(metric), quoted.unit_bytes or 1))
            cells.append("" if figure is None else _number(figure))
        table.add_row(Text(stack), *cells)
    return table


def _ratios(ratios: tuple[Ratio, ...]) -> Table:
    table = Table("ours", "ratio", title="ratios", title_justify="left", box=None, pad_edge=False)
    for ratio in ratios:
        table.add_row(Text(ratio.name), _interval(ratio.summary))
    return table


def _show_invalid(result: Result, console: Console) -> None:
    """Loads that say nothing of the server, and loads that met failures."""
    for entry in result.rounds:
        for point in entry.details["points"]:
            load = (
                f"{point['connections']} connections"
                if point["offered_per_s"] is None
                else f"{point['offered_per_s']:g} a second"
            )
            where = f"{entry.contender}, round {entry.round_number + 1}, {point['engine']}, {point['workload']}, {load}"
            if point["invalid"] is not None:
                console.print(f"invalid: {where}: {point['invalid']}", markup=False)
            if point["failures"]:
                kinds = ", ".join(f"{count} {kind}" for kind, count in point["failures"].items())
                console.print(f"failures: {where}: {kinds}", markup=False)


def _show_noise(result: Result, console: Console) -> None:
    """Whether the machine was quiet: a server that shares its processor is slower than it is."""
    shares = [point["others_cpu_share"] for entry in result.rounds for point in entry.details["points"]]
    noisy = [share for share in shares if share is not None and share > _NOISE_SHARE]
    if noisy:
        console.print(
            f"noisy: in {len(noisy)} of {len(shares)} loads other programs had more than {_NOISE_SHARE:.0%} of the "
            f"server's processor, {max(noisy):.0%} at most: repeat it on a quiet machine",
            markup=False,
        )


def _measured(summary: Summary | None, unit: int) -> str:
    return "" if summary is None else _number(summary.median / unit)


def _interval(summary: Summary) -> str:
    low, high = summary.interval or (summary.low, summary.high)
    return f"{summary.median:.3g} ({low:.3g} to {high:.3g})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
