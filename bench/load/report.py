"""Shows on a terminal what a load came to. What it leaves out is in the JSON."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.distribution import Cdf, at
from bench.load.plan import LoadAnswer
from bench.load.result import LoadResult
from bench.tables import describe, open_console

_SHARES = (0.5, 0.9, 0.99, 1.0)


def show(result: LoadResult) -> None:
    """Print rates, times and failures to stdout."""
    console, answer, plan = open_console(), result.answer, result.plan
    console.print(describe(result.environment), markup=False)
    console.print(f"{plan.model} at {plan.url}, {answer.seconds:g} s measured, seed {plan.seed}", markup=False)
    console.print(_rates(answer))
    console.print(_times(answer))
    _print_misses(console, answer)
    if answer.invalid is not None:
        console.print(f"invalid: {answer.invalid}", markup=False)


def _rates(answer: LoadAnswer) -> Table:
    table = Table("", "", show_header=False, box=None, pad_edge=False)
    rows = {
        "requests": f"{answer.num_requests} arrived, {answer.num_whole} got a whole and right answer",
        "offered": _rate(answer.offered_per_s, "requests"),
        "answered": _rate(answer.requests_per_s, "requests"),
        "within the objectives": _rate(answer.goodput_per_s, "requests"),
        "events": _rate(answer.events_per_s, "events"),
        "tokens": _rate(answer.tokens_per_s, "tokens"),
        "prompt, mean": None if answer.prompt_tokens is None else f"{answer.prompt_tokens:.1f} tokens",
        "answer, mean": None if answer.completion_tokens is None else f"{answer.completion_tokens:.1f} tokens",
        "the load's own processor": f"{answer.load_cpu_share:.0%}",
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(Text(name), value)
    return table


def _rate(rate_per_s: float | None, what: str) -> str | None:
    return None if rate_per_s is None else f"{rate_per_s:.4g} {what}/s"


def _times(answer: LoadAnswer) -> Table:
    names = (*(f"p{share * 100:g}" for share in _SHARES[:-1]), "max")
    table = Table("ms", *names, box=None, pad_edge=False)
    times: dict[str, Cdf | None] = {
        "TTFT": answer.ttft_ms,
        "TPOT": answer.tpot_ms,
        "ITL": answer.itl_ms,
        "E2E": answer.latency_ms,
        "dispatch delay": answer.dispatch_delay_ms,
    }
    for name, cdf in times.items():
        if cdf is not None:
            table.add_row(name, *(f"{at(cdf, share):.2f}" for share in _SHARES))
    return table


def _print_misses(console: Console, answer: LoadAnswer) -> None:
    for failure, number in sorted(answer.failures.items()):
        console.print(f"failed: {number} {failure}", markup=False)
    for error in answer.errors:
        console.print(f"  {error}", markup=False)
