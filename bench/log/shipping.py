"""A process that spools records and ships them: `python -m bench.log.shipping SPEC ANSWER`, both files of JSON."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from bench.errors import BenchError
from bench.log.plan import Shipped, ShippingSpec
from bench.log.postgres import postgres_cpu_s
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from handler.trace import RequestTrace

_TURN_S = 0.001
_RECORDS_OF_A_TURN = 16
_SETTLED_S = 1.0
_LIMIT_S = 120.0


def main() -> None:
    """Ship, and say how it went."""
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ShippingSpec)
    os.sched_setaffinity(0, spec.cores)
    shipped = uvloop.run(_backlog(spec) if spec.rate_per_s is None else _flow(spec, spec.rate_per_s))
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(shipped))


class _Meter:
    """What has been used and written since a moment."""

    def __init__(self, sink: LogSink, postmaster: int) -> None:
        self._sink, self._postmaster = sink, postmaster
        self._begin_s = time.monotonic()
        self._rows = sink.rows_written_total
        self._cpu_s, self._postgres_cpu_s = time.process_time(), postgres_cpu_s(postmaster)

    def read(self, most_spooled: int) -> Shipped:
        return Shipped(
            rows=self._sink.rows_written_total - self._rows,
            seconds=time.monotonic() - self._begin_s,
            cpu_s=time.process_time() - self._cpu_s,
            postgres_cpu_s=postgres_cpu_s(self._postmaster) - self._postgres_cpu_s,
            most_spooled=most_spooled,
        )


async def _backlog(spec: ShippingSpec) -> Shipped:
    """All records wait, as a process left them that is gone."""
    before = Spool(Path(spec.directory))
    for done in range(0, spec.records, _RECORDS_OF_A_TURN):
        before.append(*(chat_trace() for _ in range(min(_RECORDS_OF_A_TURN, spec.records - done))))
    before.close()
    sink = LogSink(Spool(Path(spec.directory)), spec.database)
    meter = _Meter(sink, spec.postmaster)
    await sink.start()
    await _flush(sink)
    shipped = meter.read(spec.records)
    await sink.close(0)
    return shipped


async def _flow(spec: ShippingSpec, rate_per_s: int) -> Shipped:
    """Records come in at a rate; what is measured begins when a second has passed, and ends with the last one."""
    sink = LogSink(Spool(Path(spec.directory)), spec.database)
    await sink.start()
    begin_s = time.monotonic()
    meter: _Meter | None = None
    submitted = most_spooled = 0
    while submitted < spec.records:
        elapsed_s = time.monotonic() - begin_s
        due = min(spec.records, int(elapsed_s * rate_per_s)) - submitted
        sink.submit(*(chat_trace() for _ in range(due)))
        submitted += due
        if meter is None and elapsed_s >= _SETTLED_S:
            meter = _Meter(sink, spec.postmaster)
        if meter is not None:
            most_spooled = max(most_spooled, sink.spooled_records)
        await asyncio.sleep(_TURN_S)
    if meter is None:
        raise BenchError(f"{spec.records} records are less than a second of them")
    shipped = meter.read(most_spooled)
    await _flush(sink)
    await sink.close(0)
    return shipped


async def _flush(sink: LogSink) -> None:
    if not await sink.flush(_LIMIT_S):
        raise BenchError(f"{sink.spooled_records} records not written within {_LIMIT_S:g} s: {sink.last_error}")


def chat_trace() -> RequestTrace:
    """What a chat completion leaves behind."""
    trace = RequestTrace(request_id=os.urandom(16).hex(), endpoint="/v1/chat/completions", cold_start=False)
    trace.model_name, trace.api_key_id, trace.stream, trace.instance_id = "stub", "bench", False, "bench"
    trace.http_status, trace.finish_reason = 200, "length"
    trace.prompt_tokens, trace.cached_tokens, trace.completion_tokens = 13, 0, 1
    trace.first_scheduled_s, trace.first_token_s, trace.end_s = (trace.start_s + ms / 1000 for ms in (1.25, 2.5, 2.75))
    return trace


if __name__ == "__main__":
    main()
