"""The page of a comparison: everything on it, in order. Knows no HTML."""

from __future__ import annotations

from bench.report.facts import environment_facts, peer_facts, plan_facts
from bench.report.measured import (
    busy_table,
    failure_table,
    figure_table,
    invalid_table,
    quoted_tables,
    ratio_table,
    request_failure_table,
)
from bench.report.page import embedded, render
from bench.report.samples import samples_of
from bench.report.sections import sections
from bench.report.stacks import OURS, stacks_in
from bench.report.verdict import verdict
from bench.result import Result, encode_result


def comparison_html(result: Result) -> str:
    """The page.

    Raises:
        BenchError: a round holds no points but something else.
    """
    samples = samples_of(result)
    others = [stack for stack in stacks_in(result.summary) if stack.name not in (OURS, "bare")]
    return render(
        "comparison.html",
        title=f"Pilotlight beside {_list([stack.label for stack in others])}" if others else "Pilotlight",
        environment=result.environment,
        num_rounds=result.plan.get("rounds", len({entry.round_number for entry in result.rounds})),
        num_chat_rounds=result.plan.get("chat_rounds"),
        verdict=verdict(result),
        quoted=quoted_tables(result),
        ratios=ratio_table(result),
        figures=figure_table(result),
        sections=sections(samples),
        problems=[
            table
            for table in (failure_table(result), request_failure_table(samples), invalid_table(samples))
            if table.rows
        ],
        busy=busy_table(samples),
        order=_order(result),
        plan=plan_facts(result.plan),
        environment_facts=environment_facts(result.environment),
        peers=peer_facts(result.peers),
        command=" ".join(("pilotlight", *result.arguments)),
        stacks=stacks_in(sample.stack for sample in samples),
        raw=sorted({sample.point.raw for sample in samples if sample.point.raw}),
        data=embedded(encode_result(result), "result.json"),
    )


def _order(result: Result) -> list[str]:
    """Who was measured after whom, round by round, as far as they were measured."""
    numbers = sorted({entry.round_number for entry in result.rounds})
    return [
        " → ".join(entry.contender for entry in result.rounds if entry.round_number == number) for number in numbers
    ]


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
