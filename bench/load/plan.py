"""What a load does and what it found, as both cross into and out of the process that puts it on. Pure; no gevent."""

from __future__ import annotations

from typing import Any

import msgspec

from bench.arrivals import Arrivals, Window
from bench.distribution import Cdf
from bench.lengths import Fixed, Length
from bench.record import Failure
from bench.slo import Objective
from bench.workload import Prefix


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """The part of one process among several: arrivals `index`, `index + count` and so on, and users likewise.

    Attributes:
        index: from 0.
        count: of processes.
        begins_at_unix_s: when all of them begin.
    """

    index: int
    count: int
    begins_at_unix_s: float


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one server.

    Attributes:
        url: scheme, host, port, and what comes before `/v1` in the path.
        model: its name in requests.
        api_key: of the Authorization header. Not to be written into results.
        stream: whether the answer comes as events.
        arrivals: closed loop or open, and how.
        prompt_tokens: how long prompts are, in words of about a token each; a trace brings its own.
        output_tokens: `max_tokens` of each request; a trace brings its own.
        prefix: what prompts have in common, None where each begins with what is its own.
        extra: further fields of each request.
        exact: whether an answer of other than `max_tokens` tokens is wrong: where `ignore_eos` is sent, it is.
        words: what each answer says over and over, a word a token, where that is known; None where it is not.
        window: warm-up, measured time and cool-down.
        timeout_s: from the arrival to the last byte.
        objectives: that a request must meet for the goodput.
        seed: of arrivals, lengths and prompts.
        core: the processor to run on, and no other; None leaves that to the system.
        raw: file for each request's record as JSON, one a line; None keeps none.
        share: of this process, None for all of it.
    """

    url: str
    model: str
    api_key: str | None = None
    stream: bool = True
    arrivals: Arrivals
    prompt_tokens: Length = Fixed(tokens=32)
    output_tokens: Length = Fixed(tokens=64)
    prefix: Prefix | None = None
    extra: dict[str, Any] = {}
    exact: bool = False
    words: tuple[str, ...] | None = None
    window: Window
    timeout_s: float = 60.0
    objectives: tuple[Objective, ...] = ()
    seed: int = 0
    core: int | None = None
    raw: str | None = None
    share: Share | None = None


class Second(msgspec.Struct, frozen=True, kw_only=True):
    """One second of a load.

    Attributes:
        at_s: since the load began.
        completed: requests that ended whole in it.
        failed: requests that ended otherwise.
        p99_ms: of the latencies of those that ended whole, None where none did.
    """

    at_s: int
    completed: int
    failed: int
    p99_ms: float | None


class LoadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one load came to. Requests count by their arrival: those that arrived in the measured time.

    The rates of requests and events are of what came out in that time, whenever it had arrived: a server that falls
    behind would otherwise seem to do all that is asked of it, however late.

    Attributes:
        seconds: that were measured.
        num_requests: that arrived in them.
        num_whole: of those, with a whole and right answer.
        failures: of those, the others by kind.
        errors: what was seen of the failures: different messages, the first few.
        num_reconnects: requests that were sent again, on a new connection, because the server had closed the kept one.
        offered_per_s: arrivals of an open loop; None for a closed one.
        requests_per_s: that ended whole.
        events_per_s: SSE events with text; None where answers do not stream.
        tokens_per_s: completion tokens of whole answers that arrived, as the server counted; None where it did not.
        goodput_per_s: requests that ended whole and met the objectives; None where there are none.
        prompt_tokens: mean, as the server counted; None where it did not.
        completion_tokens: likewise.
        latency_ms: whole requests, from the arrival in an open loop, from sending in a closed one; None for none.
        ttft_ms: time to first token, likewise.
        tpot_ms: time per output token after the first.
        itl_ms: inter-token latency: between one event with text and the next.
        dispatch_delay_ms: by how much later than scheduled an open loop sent; None for a closed one.
        load_cpu_share: of the load's processor; of the busiest where there are several processes.
        invalid: why this says nothing of the server, None where it does.
        timeline: second by second, warm-up and cool-down too.
    """

    seconds: float
    num_requests: int
    num_whole: int
    failures: dict[Failure, int]
    errors: tuple[str, ...]
    num_reconnects: int
    offered_per_s: float | None
    requests_per_s: float
    events_per_s: float | None
    tokens_per_s: float | None
    goodput_per_s: float | None
    prompt_tokens: float | None
    completion_tokens: float | None
    latency_ms: Cdf | None
    ttft_ms: Cdf | None
    tpot_ms: Cdf | None
    itl_ms: Cdf | None
    dispatch_delay_ms: Cdf | None
    load_cpu_share: float
    invalid: str | None
    timeline: tuple[Second, ...]
