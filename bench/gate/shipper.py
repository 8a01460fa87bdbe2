"""Ships records of the request log in turns: `python -m bench.gate.shipper DATABASE DIRECTORY RECORDS`.

Each line that comes in has it wait until so many records more are rows; the line that goes out says how many seconds
that took. It ends with its input.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path

import uvloop

from bench.errors import BenchError
from bench.log.shipping import chat_trace
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool

_LIMIT_S = 30.0
_RECORDS_OF_A_TURN = 16
"""Of the event loop: about as many requests end in one."""


def main() -> None:
    """Ship until the input ends."""
    database, directory, records = sys.argv[1:]
    uvloop.run(_ship(database, Path(directory), int(records)))


async def _ship(database: str, directory: Path, records: int) -> None:
    sink = LogSink(Spool(directory), database)
    await sink.start()
    while await asyncio.to_thread(sys.stdin.readline):
        traces = iter([chat_trace() for _ in range(records)])
        began_s = time.perf_counter()
        while some := tuple(itertools.islice(traces, _RECORDS_OF_A_TURN)):
            sink.submit(*some)
        if not await sink.flush(_LIMIT_S):
            raise BenchError(f"{sink.spooled_records} records not written within {_LIMIT_S:g} s: {sink.last_error}")
        sys.stdout.write(f"{time.perf_counter() - began_s}\n")
        sys.stdout.flush()
    await sink.close(0)


if __name__ == "__main__":
    main()
