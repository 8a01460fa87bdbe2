"""What the records of a load come to. Pure: everything is derived from them, and from the time that was measured."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from bench.arrivals import Closed
from bench.distribution import Cdf, at, cdf_of
from bench.load.plan import LoadAnswer, LoadSpec, Second
from bench.record import RequestRecord
from bench.slo import meets
from bench.stats import percentile

MOST_CPU_SHARE = 0.9
"""Above it a process has no time left to be in time; the share at which Locust warns, too."""
_DELAY_SHARE = 0.1
"""Of the median latency: what is sent so much later moves no percentile by more."""
_DELAY_MS = 5.0
"""Less is not held against anybody: about as long, another process may hold a processor before it has to leave it."""
_MOST_ERRORS = 5


def answer_of(records: Sequence[RequestRecord], spec: LoadSpec, load_cpu_share: float) -> LoadAnswer:
    """The answer of a whole load.

    Args:
        records: of all processes, in any order, of warm-up and cool-down too.
        spec: the load.
        load_cpu_share: of the busiest process.
    """
    window, seconds = spec.window, spec.window.duration_s
    counted = [record for record in records if window.holds(record.scheduled_s)]
    whole = [record for record in counted if record.failure is None]
    ended = [record for record in records if record.failure is None and window.holds(record.ended_s)]
    latency_ms = cdf_of([record.e2e_s for record in whole])
    is_closed = isinstance(spec.arrivals, Closed)
    delay_ms = None if is_closed else cdf_of([record.dispatch_delay_s for record in counted])
    num_events = sum(window.holds(time_s) for record in records for time_s in record.token_times_s)
    return LoadAnswer(
        seconds=seconds,
        num_requests=len(counted),
        num_whole=len(whole),
        failures=dict(Counter(record.failure for record in counted if record.failure is not None)),
        errors=_errors(counted),
        num_reconnects=sum(record.is_resent for record in counted),
        offered_per_s=None if is_closed else len(counted) / seconds,
        requests_per_s=len(ended) / seconds,
        events_per_s=num_events / seconds if spec.stream else None,
        tokens_per_s=_tokens_per_s(records, spec),
        goodput_per_s=_goodput_per_s(counted, spec),
        prompt_tokens=_mean([record.prompt_tokens for record in whole]),
        completion_tokens=_mean([record.completion_tokens for record in whole]),
        latency_ms=latency_ms,
        ttft_ms=cdf_of([record.ttft_s for record in whole if record.ttft_s is not None]),
        tpot_ms=cdf_of([record.tpot_s for record in whole if record.tpot_s is not None]),
        itl_ms=cdf_of([gap_s for record in whole for gap_s in record.gaps_s]),
        dispatch_delay_ms=delay_ms,
        load_cpu_share=load_cpu_share,
        invalid=_invalid(delay_ms, latency_ms, load_cpu_share, len(counted)),
        timeline=_timeline(records),
    )


def _invalid(delay_ms: Cdf | None, latency_ms: Cdf | None, cpu_share: float, num_counted: int) -> str | None:
    """Why the load, and not the server, is what was measured."""
    if not num_counted:
        return "no request arrived in the measured time"
    if cpu_share > MOST_CPU_SHARE:
        return f"the load took {cpu_share:.0%} of its processor, so it was what was measured"
    if delay_ms is None:
        return None
    limit_ms = max(_DELAY_MS, _DELAY_SHARE * at(latency_ms, 0.5)) if latency_ms else _DELAY_MS
    late_ms = at(delay_ms, 0.99)
    if late_ms > limit_ms:
        return f"1 % of the requests were sent {late_ms:.1f} ms late or later, more than {limit_ms:.1f} ms"
    return None


def _errors(counted: Sequence[RequestRecord]) -> tuple[str, ...]:
    seen = dict.fromkeys(f"{record.failure}: {record.error}" for record in counted if record.failure is not None)
    return tuple(seen)[:_MOST_ERRORS]


def _tokens_per_s(records: Sequence[RequestRecord], spec: LoadSpec) -> float | None:
    """Tokens that came in the measured time: those of an answer lie evenly on its events."""
    tokens, is_counted = 0.0, False
    for record in records:
        if record.failure is not None or record.completion_tokens is None:
            continue
        is_counted = True
        times = record.token_times_s or (record.ended_s,)
        tokens += record.completion_tokens * sum(map(spec.window.holds, times)) / len(times)
    return tokens / spec.window.duration_s if is_counted else None


def _goodput_per_s(counted: Sequence[RequestRecord], spec: LoadSpec) -> float | None:
    if not spec.objectives:
        return None
    return sum(meets(record, spec.objectives) for record in counted) / spec.window.duration_s


def _mean(samples: Sequence[int | None]) -> float | None:
    known = [sample for sample in samples if sample is not None]
    return sum(known) / len(known) if known else None


def _timeline(records: Sequence[RequestRecord]) -> tuple[Second, ...]:
    latencies_ms: defaultdict[int, list[float]] = defaultdict(list)
    failed: Counter[int] = Counter()
    for record in records:
        second = math.floor(record.ended_s)
        if record.failure is None:
            latencies_ms[second].append(record.e2e_s * 1e3)
        else:
            failed[second] += 1
    last = max([*latencies_ms, *failed], default=-1)
    return tuple(
        Second(
            at_s=second,
            completed=len(latencies_ms[second]),
            failed=failed[second],
            p99_ms=percentile(latencies_ms[second], 0.99) if latencies_ms[second] else None,
        )
        for second in range(last + 1)
    )
