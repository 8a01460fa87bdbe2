"""The page of a gate: everything on it, in order. Knows no HTML."""

from __future__ import annotations

from bench.gate.result import GateResult, MetricVerdict, Verdict
from bench.report.facts import environment_facts, plan_facts
from bench.report.forest import Forest, Row, State, changes
from bench.report.numbers import NOTHING, change, number
from bench.report.page import embedded, render
from bench.report.panels import Table, TableCell, Tone, named
from bench.result import encode_result

HEADLINES: dict[Verdict, str] = {
    "pass": "Not slower",
    "fail": "Slower",
    "inconclusive": "Not certain",
}
_STATES: dict[Verdict, State] = {"pass": "good", "fail": "bad", "inconclusive": "unsure"}
_TONES: dict[State, Tone] = {"good": "good", "bad": "bad", "unsure": "unsure", "absent": "plain"}


def gate_html(result: GateResult) -> str:
    """The page."""
    return render(
        "gate.html",
        title=f"{result.head.name} against {result.base.name}",
        result=result,
        headline=HEADLINES[result.verdict],
        state=_STATES[result.verdict],
        reason=reason(result),
        duration=duration(result.duration_s),
        slowdowns=_forest(result),
        metrics=_metric_table(result),
        samples=[_sample_table(metric) for metric in result.metrics],
        plan=plan_facts(result.plan),
        environment=result.environment,
        environment_facts=environment_facts(result.environment),
        command=" ".join(("pilotlight", *result.arguments)),
        data=embedded(encode_result(result), "gate.json"),
    )


def reason(result: GateResult) -> str:
    """Which metrics made the verdict."""
    named_by = {
        verdict: [metric.label for metric in result.metrics if metric.verdict == verdict] for verdict in HEADLINES
    }
    if result.verdict == "fail":
        return f"shown to be slower: {', '.join(named_by['fail'])}"
    if result.verdict == "inconclusive":
        return f"could not be shown within the budget: {', '.join(named_by['inconclusive']) or 'nothing was measured'}"
    return f"none of {len(result.metrics)} metrics is slower by its limit"


def between(metric: MetricVerdict) -> str | None:
    """The interval of a slowdown."""
    return f"{change(metric.interval[0])} to {change(metric.interval[1])}" if metric.interval else None


def duration(seconds: float) -> str:
    """In minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _forest(result: GateResult) -> Forest:
    rows = tuple(
        Row(
            label=metric.label,
            small=f"{number(metric.base_median)} to {number(metric.head_median)} {metric.unit}",
            value=metric.slowdown,
            interval=metric.interval,
            bounds=(metric.margin, metric.limit),
            state=_STATES[metric.verdict],
            verdict=metric.verdict,
        )
        for metric in result.metrics
    )
    return changes(rows, "By how much the head is slower than the base: further left is faster")


def _metric_table(result: GateResult) -> Table:
    rows = tuple(
        (
            named(metric.label),
            TableCell(number(metric.base_median), metric.unit),
            TableCell(number(metric.head_median), metric.unit),
            TableCell(change(metric.slowdown), between(metric) or metric.kind),
            TableCell(change(metric.margin)),
            TableCell(change(metric.limit)),
            TableCell(NOTHING if metric.p_value is None else number(metric.p_value)),
            TableCell(str(metric.num_rounds)),
            TableCell(metric.verdict, tone=_TONES[_STATES[metric.verdict]]),
        )
        for metric in result.metrics
    )
    head = ("", "base", "head", "slowdown", "let through", "limit", "p", "rounds", "verdict")
    return Table("Metrics", head, rows)


def _sample_table(metric: MetricVerdict) -> Table:
    """Samples by round; where the sides have not the same number, the shorter one's cells stay empty."""
    sides = (metric.base, metric.head)
    rows = tuple(
        (named(str(round_number + 1)), *(TableCell(_sample(side, round_number)) for side in sides))
        for round_number in range(max(len(side) for side in sides))
    )
    return Table(f"{metric.label}, {metric.unit}", ("round", "base", "head"), rows)


def _sample(side: tuple[float, ...], round_number: int) -> str:
    return number(side[round_number]) if round_number < len(side) else NOTHING
