"""What one load on one server came to: a point of a curve. Pure.

A round of the comparison keeps its points, as builtin types, under `points` in the details of its `RoundResult`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bench.distribution import Cdf
from bench.load.plan import Second

Engine = Literal["stub", "model"]
"""Who generates: made-up tokens that cost nothing, or the embedded model."""

Workload = Literal["json", "database", "template", "chat", "stream"]
"""What is asked for: a small JSON object, a row of PostgreSQL, a rendered page, a whole chat completion, a stream."""


class LoadPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One load. None: not measured by it.

    Attributes:
        engine: behind the server.
        workload: that was asked for.
        connections: of a closed loop, each of which asks again as soon as it has its answer; None for an open loop.
        offered_per_s: arrivals of an open loop, which come whatever the server does; None for a closed loop.
        seconds: that were measured, without warm-up and cool-down.
        requests_per_s: that ended whole.
        events_per_s: SSE events with text.
        goodput_per_s: requests that ended whole and within the objectives.
        latency_ms: whole requests; from the arrival in an open loop, from sending in a closed one.
        ttft_ms: time to first token, likewise.
        tpot_ms: time per output token after the first.
        failures: requests without a whole and right answer, by kind.
        server_cpu_us: processor time of the server for one request.
        server_cpu_share: of its processor.
        others_cpu_share: of the server's processor that programs had which are not measured, and the hypervisor.
        load_cpu_share: of the load's processor; near 1 the load was what was measured.
        load_in_real_time: whether wrk went before PostgreSQL on their processor.
        dispatch_delay_p99_ms: by how much later than scheduled an open loop sent.
        invalid: why this point says nothing of the server, None where it does.
        timeline: second by second.
        raw: file of the raw records below `raw/`, None where there are none.
    """

    engine: Engine
    workload: Workload
    connections: int | None = None
    offered_per_s: float | None = None
    seconds: float
    requests_per_s: float
    events_per_s: float | None = None
    goodput_per_s: float | None = None
    latency_ms: Cdf
    ttft_ms: Cdf | None = None
    tpot_ms: Cdf | None = None
    failures: dict[str, int] = {}
    server_cpu_us: float | None = None
    server_cpu_share: float | None = None
    others_cpu_share: float | None = None
    load_cpu_share: float | None = None
    load_in_real_time: bool | None = None
    dispatch_delay_p99_ms: float | None = None
    invalid: str | None = None
    timeline: tuple[Second, ...] = ()
    raw: str | None = None
