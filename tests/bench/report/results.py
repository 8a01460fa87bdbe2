"""Results as `bench compare` and `bench gate` leave them, with figures that a computer made up: the same each time."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence

import msgspec

from bench.compare.goals import GOALS, OURS
from bench.compare.points import LoadPoint, Workload
from bench.comparison import Comparison, ratios, summaries
from bench.distribution import Cdf
from bench.environment import Environment
from bench.gate.result import GateResult, MetricVerdict, Revision, Verdict
from bench.load.plan import Second
from bench.result import Failure, Result, RoundResult, encode_result

STACKS = ("bare", "pilotlight", "fastapi", "flask", "django", "django-asgi")
CONNECTIONS = (1, 16, 64, 100, 250, 500, 1000)
RATES = (50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)
SLOWNESS = {"bare": 0.5, "pilotlight": 1.0, "fastapi": 4.4, "flask": 8.5, "django": 11.0, "django-asgi": 7.4}
NASTY = "<script>alert('error & \"quotes\"')</script> | `code` @somebody #12 **bold**"

ENVIRONMENT = Environment(
    taken_at="2026-11-29T10:00:00+00:00",
    cpu_model="AMD EPYC",
    num_cpus=2,
    cpu_flags=("avx2", "avx512f"),
    memory_bytes=25_276_510_208,
    load_average=(0.12, 0.2, 0.3),
    gpus=(),
    kernel="Linux 6.18.44",
    python="3.11.7",
    packages={"torch": "2.13.0", "uvicorn": "0.54.0"},
    commit="c75f2e91258d2ab777ceb69164197fb6a7c83da7",
    is_modified=True,
    variables={"OMP_NUM_THREADS": "1"},
)


def comparison(
    *, num_rounds: int = 5, stacks: Sequence[str] = STACKS, with_points: bool = True, failures: Sequence[Failure] = ()
) -> Result:
    """A comparison of those servers."""
    rng = random.Random(7)
    rounds = [
        _round(rng, number, stack, with_points)
        for number in range(num_rounds)
        for stack in rng.sample(stacks, len(stacks))
    ]
    comparisons = [
        Comparison(f"ours to {goal.baseline}, {goal.metric}", (OURS, goal.metric), (goal.baseline, goal.metric))
        for goal in GOALS
    ]
    result = Result(
        benchmark="compare",
        arguments=("bench", "compare", "--out", "results"),
        environment=ENVIRONMENT,
        settings={"HOST": "127.0.0.1"},
        peers={"fastapi": {"fastapi": "0.120.0", "pydantic": "2.12.0"}, "django": {"django": "5.2"}},
        plan={
            "rounds": num_rounds,
            "chat_rounds": num_rounds + 1,
            "server_core": 0,
            "load_core": 1,
            "seed": 0,
            "rates_per_s": list(RATES),
        },
        rounds=tuple(rounds),
        failures=tuple(failures),
        summary=summaries(rounds),
        ratios=ratios(rounds, comparisons),
        profile=None,
    )
    return as_read(result)


def with_point(result: Result, stack: str, point: LoadPoint) -> Result:
    """The same with one more point, in the first round of that server."""
    done = False
    rounds = []
    for entry in result.rounds:
        if entry.contender == stack and not done:
            done = True
            points = [*entry.details["points"], msgspec.to_builtins(point)]
            entry = msgspec.structs.replace(entry, details={"points": points})  # noqa: PLW2901
        rounds.append(entry)
    return msgspec.structs.replace(result, rounds=tuple(rounds))


def gate(verdict: Verdict = "fail") -> GateResult:
    """A gate's result with a metric of each verdict, of which the worst is that one."""
    rng = random.Random(3)
    order: tuple[Verdict, ...] = ("pass", "inconclusive", "fail")
    found = order[: order.index(verdict) + 1]
    metrics = [_metric(rng, f"{each}_ms", f"Latency of {each}", each) for each in found]
    counted = MetricVerdict(
        name="decode_instructions",
        label="Decode a request",
        unit="instructions",
        kind="counted",
        base_median=182_332.0,
        head_median=182_340.0,
        slowdown=182_340 / 182_332,
        interval=None,
        confidence=0.95,
        p_value=None,
        limit=1.05,
        margin=1.02,
        num_rounds=1,
        verdict="pass",
        base=(182_332.0,),
        head=(182_340.0,),
    )
    return GateResult(
        base=Revision(name="main", commit="a" * 40, subject="A subject with <b>markup</b> for @somebody, fixes #12"),
        head=Revision(name="HEAD", commit="b" * 40, subject="Another"),
        verdict=verdict,
        metrics=(*metrics, counted),
        errors=(NASTY,),
        notes=("valgrind is missing: nothing was counted",),
        num_rounds=12,
        duration_s=372.4,
        environment=ENVIRONMENT,
        arguments=("bench", "gate", "main", "HEAD"),
        plan={"rounds": 12, "limit": 1.05},
    )


def _round(rng: random.Random, number: int, stack: str, with_points: bool) -> RoundResult:
    slow = SLOWNESS[stack] * rng.gauss(1.0, 0.03)
    metrics = {
        "json_requests_per_s@64": 46_000 / slow**0.6,
        "template_requests_per_s@64": 15_000 / slow**0.5,
        "chat_requests_per_s@64": 14_200 / slow,
        "chat_p99_ms@100": 8.0 * slow,
        "chat_p99_ms@500": 41.0 * slow,
        "chat_p99_ms@1000": 88.0 * slow,
        "stream_events_per_s@64": 320_000 / slow,
        "rss_bytes": 62e6 + 4e6 * slow,
        "rss_bytes@1000": 81e6 + 11e6 * slow,
        "cpu_us": 70.0 * slow,
    }
    if stack != "bare":
        metrics |= {"database_requests_per_s@64": 9_800 / slow**0.4, "rss_database_bytes": 70e6 + 5e6 * slow}
    points: list[LoadPoint] = []
    if with_points:
        points += [_closed(rng, "stub", "chat", connections, slow) for connections in CONNECTIONS]
        points += [_closed(rng, "stub", workload, 64, slow) for workload in ("json", "template", "stream")]
        if stack != "bare":
            points += [_open(rng, "stub", rate, slow, stack, number) for rate in RATES]
            points += [_open(rng, "model", rate, 1 + slow / 40, stack, number) for rate in (1.0, 2.0, 4.0)]
    return RoundResult(
        round_number=number,
        contender=stack,
        load_average_1=0.3,
        metrics=metrics,
        details={"points": msgspec.to_builtins(points)} if with_points else {},
    )


def _closed(rng: random.Random, engine: str, workload: Workload, connections: int, slow: float) -> LoadPoint:
    per_s = 14_200 / slow * connections / (connections + 3) * rng.gauss(1.0, 0.02)
    median_ms = 1000 * connections / per_s
    is_crowded = connections == 1000 and slow > 6
    return LoadPoint(
        engine="stub",
        workload=workload,
        connections=connections,
        seconds=5.0,
        requests_per_s=per_s,
        latency_ms=_cdf(rng, median_ms, 0.25),
        failures={"timeout": 31, "connection": 4} if is_crowded else {},
        server_cpu_us=1e6 / per_s,
        server_cpu_share=0.99,
        load_cpu_share=0.31,
        load_in_real_time=True,
    )


def _open(rng: random.Random, engine: str, rate: float, slow: float, stack: str, number: int) -> LoadPoint:
    capacity = (1500.0 if engine == "stub" else 6.0) / (slow if engine == "stub" else 1.0)
    per_s = min(rate, capacity * rng.gauss(1.0, 0.02))
    overload = max(0.0, rate / capacity - 1.0)
    wait_ms = 3.0 * slow / max(0.05, 1.05 - min(rate / capacity, 1.0)) + 900 * overload
    ttft_ms = wait_ms + (5.0 if engine == "stub" else 55.0)
    tpot_ms = (5.0 if engine == "stub" else 21.0) * (1 + 0.1 * min(rate / capacity, 3.0))
    is_bottleneck = rate == RATES[-1] and stack in ("pilotlight", "fastapi")
    invalid = "the load used 0.99 of its processor" if is_bottleneck and (stack == "fastapi" or number < 2) else None
    return LoadPoint(
        engine="stub" if engine == "stub" else "model",
        workload="stream",
        offered_per_s=rate,
        seconds=10.0,
        requests_per_s=per_s,
        events_per_s=32 * per_s,
        goodput_per_s=per_s * math.exp(-2.5 * overload),
        latency_ms=_cdf(rng, ttft_ms + 31 * tpot_ms, 0.1),
        ttft_ms=_cdf(rng, ttft_ms, 0.35),
        tpot_ms=_cdf(rng, tpot_ms, 0.08),
        failures={"timeout": round(per_s)} if overload > 2 else {},
        server_cpu_us=900.0,
        server_cpu_share=min(1.0, rate / capacity),
        load_cpu_share=0.99 if invalid else 0.4,
        dispatch_delay_p99_ms=0.8,
        invalid=invalid,
        timeline=tuple(
            Second(
                at_s=second,
                completed=round(per_s * rng.gauss(1.0, 0.05)) if second != 4 or stack != "flask" else 0,
                failed=0,
                p99_ms=ttft_ms * 3 * rng.gauss(1.0, 0.1) if second != 4 or stack != "flask" else None,
            )
            for second in range(10)
        ),
        raw=f"{stack}-{number}-{engine}-{rate:g}.jsonl.gz",
    )


def _cdf(rng: random.Random, median_ms: float, spread: float) -> Cdf:
    """Log-normal, with a few requests far out."""
    shares = [*(number / 100 for number in range(1, 100)), 0.995, 0.999, 1.0]
    samples = sorted(median_ms * math.exp(rng.gauss(0.0, spread)) for _ in shares)
    samples[-2:] = [samples[-3] * 1.3, samples[-3] * 2.1]
    return tuple(zip(shares, samples, strict=True))


def _metric(rng: random.Random, name: str, label: str, verdict: Verdict) -> MetricVerdict:
    slowdown = {"pass": 0.996, "inconclusive": 1.035, "fail": 1.124}[verdict]
    base = tuple(20.0 * rng.gauss(1.0, 0.01) for _ in range(12))
    head = tuple(slowdown * value for value in base)
    half = 0.03 if verdict == "inconclusive" else 0.012
    return MetricVerdict(
        name=name,
        label=label,
        unit="ms",
        kind="sampled",
        base_median=sorted(base)[6],
        head_median=sorted(head)[6],
        slowdown=slowdown,
        interval=(slowdown - half, slowdown + half),
        confidence=0.95,
        p_value={"pass": 0.7, "inconclusive": 0.08, "fail": 0.0005}[verdict],
        limit=1.05,
        margin=1.02,
        num_rounds=12,
        verdict=verdict,
        base=base,
        head=head,
    )


@functools.cache  # it takes a while, and is only read
def everything() -> Result:
    """With more that goes wrong than any real run has, and long words."""
    words = "a_very_long_name_without_a_place_to_break_" * 5
    failures = [
        Failure(round_number=2, contender="flask", error=NASTY),
        Failure(round_number=4, contender=words, error=NASTY * 8),
    ]
    result = comparison(failures=failures)
    point = LoadPoint(
        engine="stub",
        workload="stream",
        offered_per_s=800.0,
        seconds=10.0,
        requests_per_s=1.0,
        latency_ms=((1.0, 1.0),),
        invalid=words,
    )
    return as_read(with_point(msgspec.structs.replace(result, plan={**result.plan, words: words}), "flask", point))


def as_read(result: Result) -> Result:
    """As it comes from a file."""
    return msgspec.json.decode(encode_result(result), type=Result)
