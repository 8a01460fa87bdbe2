"""Tables of a comparison: measured beside quoted, ours to each baseline, all figures, and what went wrong. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bench.compare.points import LoadPoint
from bench.compare.quoted import QUOTED, QuotedTable
from bench.report.numbers import NOTHING, exact, figure, number, percent, span, times
from bench.report.panels import Table, TableCell, missing, named, shown, words
from bench.report.samples import Sample, load_label, load_of
from bench.report.stacks import stack_of, stacks_in
from bench.result import Ratio, Result
from bench.stats import Summary

_WORDS = {"json": "JSON", "database": "database", "template": "template", "chat": "chat", "stream": "streamed chat"}


def quoted_tables(result: Result) -> tuple[Table, ...]:
    """What was measured, beside what is quoted."""
    return tuple(_beside(result, quoted) for quoted in QUOTED)


def ratio_table(result: Result) -> Table:
    """All ratios with their intervals: a row for each quantity, a column for each baseline."""
    ratios: dict[str, dict[str, Ratio]] = {}
    for ratio in result.ratios:
        baseline, _, metric = ratio.denominator.partition(" ")
        end = f", to {baseline}"
        quantity = ratio.name.removesuffix(end) if ratio.name.endswith(end) else metric
        ratios.setdefault(quantity, {})[baseline] = ratio
    stacks = stacks_in(baseline for by_baseline in ratios.values() for baseline in by_baseline)
    rows = tuple(
        (named(quantity), *(_ratio(by_baseline.get(stack.name)) for stack in stacks))
        for quantity, by_baseline in ratios.items()
    )
    return Table("Ours to each baseline, round by round", ("", *(stack.label for stack in stacks)), rows)


def figure_table(result: Result) -> Table:
    """Every metric of every server."""
    stacks = stacks_in(result.summary)
    metrics = sorted({metric for by_metric in result.summary.values() for metric in by_metric})
    rows = tuple(
        (named(metric), *(shown(figure(result.summary[stack.name].get(metric))) for stack in stacks))
        for metric in metrics
    )
    return Table("All figures", ("", *(stack.label for stack in stacks)), rows)


def busy_table(samples: Iterable[Sample]) -> Table:
    """How sure the load was of itself: its own processor, lateness and precedence, and the server's processor."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.stack, []).append(sample)
    rows = []
    for stack in stacks_in(groups):
        points = [sample.point for sample in groups[stack.name]]
        rows.append(
            (
                named(stack.label),
                TableCell(str(len(points))),
                TableCell(str(sum(point.invalid is not None for point in points))),
                _largest([point.server_cpu_share for point in points if point.invalid is None], is_share=True),
                _largest([point.load_cpu_share for point in points if point.invalid is None], is_share=True),
                _largest([point.dispatch_delay_p99_ms for point in points if point.invalid is None], is_share=False),
                _in_real_time(points),
            )
        )
    head = (
        "",
        "points",
        "invalid",
        "server's processor, most",
        "load's processor, most",
        "dispatch delay p99, ms, most",
        "loads in real time",
    )
    return Table("How busy servers and load were", head, tuple(rows))


def invalid_table(samples: Iterable[Sample]) -> Table:
    """Points that say nothing of their server, and why."""
    reasons: dict[tuple[str, str], dict[int, str]] = {}
    for sample in samples:
        if sample.point.invalid is not None:
            reasons.setdefault((sample.stack, _load(sample)), {})[sample.round_number + 1] = sample.point.invalid
    rows = tuple(
        (
            named(stack_of(stack).label),
            words(load),
            TableCell(", ".join(str(number) for number in sorted(by_round))),
            words("; ".join(dict.fromkeys(by_round[number] for number in sorted(by_round)))),
        )
        for (stack, load), by_round in reasons.items()
    )
    return Table("Invalid points: in no figure and in no line", ("", "load", "rounds", "why"), rows)


def request_failure_table(samples: Iterable[Sample]) -> Table:
    """Requests without a whole and right answer, by kind, over all rounds."""
    counts: dict[tuple[str, str, float], Counter[str]] = {}
    labels: dict[tuple[str, str, float], str] = {}
    for sample in samples:
        if sample.point.failures:
            key = (sample.stack, f"{sample.point.engine} {sample.point.workload}", load_of(sample.point))
            counts.setdefault(key, Counter()).update(sample.point.failures)
            labels[key] = _load(sample)
    rows = tuple(
        (
            named(stack_of(key[0]).label),
            words(labels[key]),
            TableCell(f"{sum(kinds.values()):,}"),
            words(", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))),
        )
        for key, kinds in sorted(counts.items())
    )
    return Table("Requests that failed", ("", "load", "failed", "kinds"), rows)


def failure_table(result: Result) -> Table:
    """Servers that could not be measured in a round."""
    rows = tuple(
        (
            named(stack_of(failure.contender).label),
            TableCell(str(failure.round_number + 1)),
            words(failure.error),
        )
        for failure in result.failures
    )
    return Table("Not measured", ("", "round", "error"), rows)


def _beside(result: Result, quoted: QuotedTable) -> Table:
    scale = float(quoted.unit_bytes or 1)
    names: set[str] = {*result.summary, *quoted.rows}
    rows = []
    for stack in stacks_in(names):
        figures = {str(name): values for name, values in quoted.rows.items()}.get(stack.name)
        cells = [named(stack.label)]
        for position, (_, metric) in enumerate(quoted.columns):
            cells.append(_measured(result.summary.get(stack.name, {}).get(metric), scale))
            said = NOTHING if figures is None else exact(figures[position])
            cells.append(TableCell(said, tone="quoted"))
        rows.append(tuple(cells))
    head = ("", *(title for label, _ in quoted.columns for title in (label, "quoted")))
    return Table(quoted.title[0].upper() + quoted.title[1:], head, tuple(rows))


def _ratio(ratio: Ratio | None) -> TableCell:
    if ratio is None:
        return missing(None)
    return TableCell(times(ratio.summary.median), span(*ratio.summary.interval) if ratio.summary.interval else None)


def _measured(summary: Summary | None, scale: float) -> TableCell:
    return missing(None) if summary is None else shown(figure(summary, scale))


def _largest(values: list[float | None], *, is_share: bool) -> TableCell:
    present = [value for value in values if value is not None]
    if not present:
        return missing(None)
    return TableCell(percent(round(max(present), 2)) if is_share else number(max(present)))


def _in_real_time(points: list[LoadPoint]) -> TableCell:
    """How many of wrk's loads went before PostgreSQL on their processor."""
    asked = [point.load_in_real_time for point in points if point.load_in_real_time is not None]
    return TableCell(f"{sum(asked)} of {len(asked)}") if asked else missing(None)


def _load(sample: Sample) -> str:
    engine = "embedded model" if sample.point.engine == "model" else "stub engine"
    return f"{_WORDS[sample.point.workload]}, {engine}, {load_label(sample.point)}"
