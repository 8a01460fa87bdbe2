"""The flat figures of the comparison, by name, that its points come to; and which of them are set in ratios. Pure.

A name ends in the unit, and in `@N` where N connections were at work or, as `@N_per_s`, where N requests arrived a
second. What a point that is invalid would have come to is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare.goals import OURS
from bench.compare.plan import Plan
from bench.compare.points import LoadPoint
from bench.comparison import Comparison
from bench.distribution import Cdf, at

_WHOLE = ("json", "database", "template", "chat")


def metrics_of(points: Sequence[LoadPoint], busy_connections: int) -> dict[str, float]:
    """Of one server in one round; `cpu_us` is that of a chat at so many connections."""
    metrics: dict[str, float] = {}
    for point in points:
        if point.invalid is None:
            metrics |= _figures(point)
            if (point.workload, point.connections) == ("chat", busy_connections) and point.server_cpu_us is not None:
                metrics["cpu_us"] = point.server_cpu_us
    return metrics


def _figures(point: LoadPoint) -> dict[str, float]:
    name, load = _name(point), _load(point)
    figures = {f"{name}_requests_per_s{load}": point.requests_per_s}
    if point.events_per_s is not None:
        figures[f"{name}_events_per_s{load}"] = point.events_per_s
    if point.goodput_per_s is not None:
        figures[f"{name}_goodput_per_s{load}"] = point.goodput_per_s
    figures |= _percentiles(name, load, point.latency_ms)
    figures |= _percentiles(f"{name}_ttft", load, point.ttft_ms)
    figures |= _percentiles(f"{name}_tpot", load, point.tpot_ms)
    return figures


def comparisons_of(plan: Plan) -> tuple[Comparison, ...]:
    """Ours to each of the others: of rates more is better, of everything else less."""
    return tuple(
        Comparison(f"{words}, to {other}", (OURS, metric), (other, metric))
        for words, metric in _compared(plan)
        for other in plan.stacks
        if other != OURS
    )


def _compared(plan: Plan) -> list[tuple[str, str]]:
    """Words and names. A pair of which one side has no such figure gives no ratio, and needs no mention here."""
    busy, users = plan.busy_connections, plan.model_loops.users
    found = [(f"{name} requests per second", f"{name}_requests_per_s@{busy}") for name in _WHOLE]
    crowds = [busy, *(number for number in plan.curve if number > busy), plan.crowd]
    found += [(f"99th percentile at {number}", f"chat_p99_ms@{number}") for number in crowds]
    found += [
        ("processor time of a chat", "cpu_us"),
        ("events per second", f"stream_events_per_s@{plan.streams}"),
        ("memory at rest", "rss_bytes"),
        ("memory with database", "rss_database_bytes"),
        (f"memory at {plan.crowd}", f"rss_bytes@{plan.crowd}"),
    ]
    for rate in plan.open_loops.rates_per_s:
        found += [
            (f"goodput at {rate:g} arrivals per second", f"stream_goodput_per_s@{rate:g}_per_s"),
            (f"99th percentile of the first token at {rate:g}", f"stream_ttft_p99_ms@{rate:g}_per_s"),
        ]
    if users is not None:
        found.append((f"first token of the model, {users} users", f"model_stream_ttft_p50_ms@{users}"))
        found.append((f"time per token of the model, {users} users", f"model_stream_tpot_p50_ms@{users}"))
    return found


def _name(point: LoadPoint) -> str:
    return point.workload if point.engine == "stub" else f"{point.engine}_{point.workload}"


def _load(point: LoadPoint) -> str:
    return f"@{point.connections}" if point.offered_per_s is None else f"@{point.offered_per_s:g}_per_s"


def _percentiles(name: str, load: str, cdf: Cdf | None) -> dict[str, float]:
    return {f"{name}_p{share}_ms{load}": at(cdf, share / 100) for share in (50, 99)} if cdf else {}
