"""Comments for a pull request, in GitHub's Markdown: the verdict first, then one or two tables. Knows no HTML page.

Words that others wrote stand in them as they are: no mention, no link, no markup comes of a commit's subject.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bench.gate.result import GateResult, MetricVerdict
from bench.report.facts import environment_facts
from bench.report.forest import Row, State
from bench.report.gating import HEADLINES, between, duration, reason
from bench.report.measured import failure_table, quoted_tables
from bench.report.numbers import NOTHING, TIMES, change, number, span, times
from bench.report.panels import Table, TableCell
from bench.report.samples import samples_of
from bench.report.verdict import verdict
from bench.result import Result

GATE_MARK = "<!-- pilotlight-gate -->"
"""First line of the gate's comment: by it the comment is found again, and replaced."""

_COMPARISON_MARK = "<!-- pilotlight-compare -->"
_SIGNS: dict[str, str] = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️"}
_MARKUP = re.compile(rf"[^\w\s.,;/%()+{TIMES}{NOTHING}-]|_|(?<=www)\.")
_STATE_SIGNS: dict[State, str] = {"good": "✅", "bad": "❌", "unsure": "⚠️", "absent": NOTHING}


def gate_markdown(result: GateResult) -> str:
    """The gate's comment."""
    base, head = result.base, result.head
    lines = [
        GATE_MARK,
        f"### {_SIGNS[result.verdict]} {HEADLINES[result.verdict]}",
        "",
        f"{foreign(head.name)} {head.commit[:9]} against {foreign(base.name)} {base.commit[:9]}: "
        f"{literal(reason(result))}.",
        "",
        *_rows(
            ("metric", "base", "head", "slowdown (95 %)", "verdict"),
            [_metric(metric) for metric in result.metrics],
        ),
        "",
        *(f"- could not be measured: {foreign(error)}" for error in result.errors),
        *(f"- {foreign(note)}" for note in result.notes),
        "",
        "<details><summary>How it was measured</summary>",
        "",
        f"{result.num_rounds} rounds in {duration(result.duration_s)}. A slowdown says how much more the head costs "
        "than the base; what lies under the margin is let through, what reaches the limit must not get through.",
        "",
        *_rows(
            ("metric", "margin", "limit", "p", "rounds", "kind"),
            [
                [
                    literal(metric.label),
                    change(metric.margin),
                    change(metric.limit),
                    NOTHING if metric.p_value is None else number(metric.p_value),
                    str(metric.num_rounds),
                    metric.kind,
                ]
                for metric in result.metrics
            ],
        ),
        "",
        f"- base: {base.commit} {foreign(base.subject)}",
        f"- head: {head.commit} {foreign(head.subject)}",
        *_facts(result),
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def comparison_markdown(result: Result) -> str:
    """A short form of a comparison's page.

    Raises:
        BenchError: a round holds something else than points.
    """
    said = verdict(result)
    num_invalid = sum(sample.point.invalid is not None for sample in samples_of(result))
    failures = failure_table(result)
    lines = [
        _COMPARISON_MARK,
        f"### {_STATE_SIGNS[said.state]} {said.headline}",
        "",
        *_rows(("goal", "measured (95 %)", ""), [_goal(row) for row in said.goals.rows]),
        "",
        "<details><summary>Measured beside quoted</summary>",
        "",
        "Quoted figures come with no statement of the hardware: they are for orientation.",
        "",
        *(
            line
            for table in quoted_tables(result)
            for line in (f"**{literal(table.caption)}**", "", *_table(table), "")
        ),
        "</details>",
        "",
        *(f"- {literal(who.text)}, round {which.text}: {foreign(error.text)}" for who, which, error in failures.rows),
        *([f"- {num_invalid} points are invalid and in no figure"] if num_invalid else []),
        *_facts(result),
        "",
        "Curves, distributions and the raw data are in `report.html`.",
    ]
    return "\n".join(lines) + "\n"


def literal(text: str) -> str:
    """The text on one line, with nothing in it that Markdown or HTML would act upon."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(text.split()))


def foreign(text: str) -> str:
    """Words that others wrote, as code: GitHub follows no mention and no reference in it."""
    return f"<code>{literal(text)}</code>"


def _metric(metric: MetricVerdict) -> list[str]:
    interval = f" ({between(metric)})" if metric.interval else ""
    return [
        literal(metric.label),
        f"{number(metric.base_median)} {literal(metric.unit)}",
        f"{number(metric.head_median)} {literal(metric.unit)}",
        f"{change(metric.slowdown)}{interval}",
        f"{_SIGNS[metric.verdict]} {metric.verdict}",
    ]


def _goal(row: Row) -> list[str]:
    interval = f" ({span(*row.interval)})" if row.interval else ""
    value = NOTHING if row.value is None else f"{times(row.value)}{interval}"
    return [f"{literal(row.label)}, {literal(row.small)}", value, f"{_STATE_SIGNS[row.state]} {row.verdict}"]


def _facts(result: Result | GateResult) -> list[str]:
    shown = ("commit", "processor", "load average at the start")
    return [
        f"- {fact.name}: {literal(fact.value)}" for fact in environment_facts(result.environment) if fact.name in shown
    ]


def _table(table: Table) -> list[str]:
    return _rows(table.head, [_texts(row) for row in table.rows])


def _texts(row: Sequence[TableCell]) -> list[str]:
    return [literal(cell.text) + (f" ({literal(cell.small)})" if cell.small else "") for cell in row]


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'|'.join(':--' if position == 0 else '--:' for position in range(len(head)))}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
