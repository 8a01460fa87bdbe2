"""Streamed chats on one server, as `bench load` puts them on: open loops, and a closed one of few users.

In an open loop requests come when they come, and their times count from that moment: what a user would have waited.
"""

from __future__ import annotations

import msgspec

from bench.arrivals import Arrivals, Closed, Poisson, Window
from bench.children import OWN_MODULE, own_environment, run_script
from bench.compare.plan import Plan, StreamLoad
from bench.compare.points import Engine, LoadPoint
from bench.compare.raw import RawFiles
from bench.compare.server import RunningServer
from bench.distribution import Cdf, at
from bench.http.plan import API_KEY
from bench.lengths import Fixed
from bench.load.plan import LoadAnswer, LoadSpec
from bench.slo import parse_objectives
from bench.stub_engine import WORDS

_GRACE_S = 60.0
"""Beyond the load itself: to start, and to work out what came."""


def streamed_chats(
    server: RunningServer,
    engine: Engine,
    arrivals: Closed | Poisson,
    sizes: StreamLoad,
    plan: Plan,
    raw: RawFiles,
    name: str,
) -> LoadPoint:
    """Put the load on, and wait until the server is done with what that left behind.

    Raises:
        BenchError: the server ended, or the load failed.
    """
    path = raw.path(name)
    spec = LoadSpec(
        url=f"http://127.0.0.1:{server.port}",
        model=server.model,
        api_key=API_KEY,
        arrivals=arrivals,
        prompt_tokens=Fixed(tokens=sizes.prompt_tokens),
        output_tokens=Fixed(tokens=sizes.tokens),
        extra={"ignore_eos": True},
        exact=True,
        words=WORDS if engine == "stub" else None,
        window=Window(warm_up_s=sizes.warm_up_s, duration_s=sizes.seconds, cool_down_s=0.0),
        timeout_s=sizes.timeout_s,
        objectives=parse_objectives(sizes.objectives),
        seed=plan.seed,
        core=plan.load_core,
        raw=None if path is None else str(path),
    )
    command = [*OWN_MODULE, "bench.load.running"]
    limit_s = spec.window.end_s + spec.timeout_s + _GRACE_S
    before = server.usage()
    answer = msgspec.convert(run_script("the load", command, spec, own_environment(), limit_s), LoadAnswer)
    server.rest()
    after = server.usage()
    point = point_of(answer, engine, arrivals, (after.cpu_s - before.cpu_s) / spec.window.end_s)
    return msgspec.structs.replace(point, others_cpu_share=after.others_share_since(before), raw=raw.keep(name))


def point_of(answer: LoadAnswer, engine: Engine, arrivals: Arrivals, server_cpu_share: float) -> LoadPoint:
    """What the answer says, of a load that took the server such a share of its processor."""
    return LoadPoint(
        engine=engine,
        workload="stream",
        connections=arrivals.users if isinstance(arrivals, Closed) else None,
        offered_per_s=arrivals.rate_per_s if isinstance(arrivals, Poisson) else None,
        seconds=answer.seconds,
        requests_per_s=answer.requests_per_s,
        events_per_s=answer.events_per_s,
        goodput_per_s=answer.goodput_per_s,
        latency_ms=_rounded(answer.latency_ms) or (),
        ttft_ms=_rounded(answer.ttft_ms),
        tpot_ms=_rounded(answer.tpot_ms),
        failures={kind: count for kind, count in answer.failures.items() if count},
        server_cpu_share=server_cpu_share,
        load_cpu_share=answer.load_cpu_share,
        dispatch_delay_p99_ms=None if answer.dispatch_delay_ms is None else at(answer.dispatch_delay_ms, 0.99),
        invalid=answer.invalid,
        timeline=answer.timeline,
    )


def _rounded(cdf: Cdf | None) -> Cdf | None:
    """To the microsecond: more digits would say nothing, and there are many."""
    return None if cdf is None else tuple((share, round(ms, 3)) for share, ms in cdf)
