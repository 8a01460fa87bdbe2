"""Closed loops on one server: wrk for whole answers, a reader of events for streams.

Nobody in them asks while the server stalls (coordinated omission, see `bench.http.wrk`): they say what a server can do
at most, and what it costs. How long users wait is for the open loops to say.
"""

from __future__ import annotations

import itertools

import msgspec

from bench.compare.plan import Plan
from bench.compare.points import Engine, LoadPoint, Workload
from bench.compare.raw import RawFiles
from bench.compare.server import RunningServer
from bench.distribution import Cdf, cdf_of
from bench.http.plan import chat_body
from bench.http.streams import read_streams
from bench.http.wrk import WrkAnswer, WrkLoad, put_load
from bench.http.wrk_latencies import Histogram

_ENGINE: Engine = "stub"
_PATHS: dict[Workload, str] = {
    "json": "/json",
    "database": "/database",
    "template": "/template",
    "chat": "/v1/chat/completions",
}
_BUSY_SHARE = 0.95
"""Of its processor: a load that is so busy was what was measured."""
_KINDS = {
    "connect": "connection",
    "read": "connection",
    "write": "connection",
    "status": "rejected",
    "timeout": "timeout",
}
"""Failures by wrk's names, in the words of `bench.record.Failure`."""


def whole_answers(
    server: RunningServer, workload: Workload, connections: int, plan: Plan, raw: RawFiles, name: str
) -> LoadPoint:
    """Ask for whole answers, and wait until the server is done with what that left behind.

    Raises:
        BenchError: the server ended, or wrk failed.
    """
    load = WrkLoad(
        port=server.port,
        path=_PATHS[workload],
        body=chat_body(server.model, tokens=1, stream=False) if workload == "chat" else None,
        connections=connections,
        seconds=plan.seconds_of(connections),
        core=plan.load_core,
        timeout_s=plan.wrk_timeout_s,
        wants_latencies=True,
    )
    before = server.usage()
    answer = put_load(load)
    server.rest()
    after = server.usage()
    file = raw.write(name, ({"latency_us": value_us, "answers": count} for value_us, count in answer.values))
    point = point_of(answer, workload, connections, after.cpu_s - before.cpu_s)
    return msgspec.structs.replace(point, others_cpu_share=after.others_share_since(before), raw=file)


def point_of(answer: WrkAnswer, workload: Workload, connections: int, cpu_s: float) -> LoadPoint:
    """What wrk's answer says, of a load that took the server so much processor time."""
    num_whole = answer.num_requests - answer.errors["status"] - answer.errors["timeout"]
    failures: dict[str, int] = {}
    for name, count in answer.errors.items():
        if count:
            failures[_KINDS[name]] = failures.get(_KINDS[name], 0) + count
    return LoadPoint(
        engine=_ENGINE,
        workload=workload,
        connections=connections,
        seconds=answer.duration_s,
        requests_per_s=num_whole / answer.duration_s,
        latency_ms=latency_cdf(answer.values),
        failures=failures,
        server_cpu_us=cpu_s / answer.num_requests * 1e6 if answer.num_requests else None,
        server_cpu_share=cpu_s / answer.duration_s,
        load_cpu_share=answer.load_cpu_share,
        load_in_real_time=answer.in_real_time,
        invalid=_why_invalid(answer, num_whole, connections),
    )


def latency_cdf(values: Histogram) -> Cdf:
    """The distribution, in milliseconds to the microsecond, in which wrk takes them."""
    samples_s = list(
        itertools.chain.from_iterable(itertools.repeat(value_us / 1e6, count) for value_us, count in values)
    )
    return tuple((share, round(ms, 3)) for share, ms in cdf_of(samples_s) or ())


def streams(server: RunningServer, plan: Plan) -> LoadPoint:
    """Read streams, each to its end and then the next one, in this process.

    Raises:
        BenchError: the server ended, a connection failed, or an answer was no stream.
    """
    body = chat_body(server.model, tokens=plan.stream_tokens, stream=True)
    before = server.usage()
    found = read_streams(server.port, body, plan.streams, plan.seconds)
    after = server.usage()
    return LoadPoint(
        engine=_ENGINE,
        workload="stream",
        connections=plan.streams,
        seconds=found.duration_s,
        requests_per_s=found.num_streams / found.duration_s,
        events_per_s=found.events_per_s,
        latency_ms=(),
        server_cpu_share=(after.cpu_s - before.cpu_s) / found.duration_s,
        others_cpu_share=after.others_share_since(before),
        load_cpu_share=found.load_cpu_share,
        invalid=_busy_load(found.load_cpu_share),
    )


def _why_invalid(answer: WrkAnswer, num_whole: int, connections: int) -> str | None:
    if not num_whole:
        return "no whole answer came"
    if num_whole < connections:
        return f"{num_whole} answers on {connections} connections: some may have had none, and the slowest are missing"
    return _busy_load(answer.load_cpu_share)


def _busy_load(share: float) -> str | None:
    return f"the load had {share:.0%} of its processor: it is what was measured" if share > _BUSY_SHARE else None
