"""The load on endpoints that stream: connections that each read a stream to its end and ask for the next one.

Bytes are not parsed: events are counted by the field name that each begins with, as they arrive. A reader that falls
behind finds several events in one read, and slows nobody down before the kernel's buffers are full.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

import msgspec
import uvloop

from bench.errors import BenchError
from bench.http.plan import API_KEY

_FIELD = b"data: "
_LAST_CHUNK = b"0\r\n\r\n"
_CONNECT_S = 10.0


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """What one load came to.

    Attributes:
        num_events: that arrived in the time, those of unfinished streams too.
        num_streams: that ended in it.
        num_reads: pieces in which the events arrived.
        duration_s: the time.
        load_cpu_share: of the reader.
    """

    num_events: int
    num_streams: int
    num_reads: int
    duration_s: float
    load_cpu_share: float

    @property
    def events_per_s(self) -> float:
        """Events over time."""
        return self.num_events / self.duration_s


def read_streams(port: int, body: bytes, connections: int, seconds: float) -> Streams:
    """Read streams over and over.

    Raises:
        BenchError: a connection failed or broke, or an answer was no stream.
    """
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {API_KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_read(port, head.encode() + body, connections, seconds))


async def _read(port: int, request: bytes, connections: int, seconds: float) -> Streams:
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    readers = [_Reader(request, failed) for _ in range(connections)]
    try:
        async with asyncio.timeout(_CONNECT_S):
            for reader in readers:
                await loop.create_connection(lambda reader=reader: reader, "127.0.0.1", port)  # type: ignore[misc]
    except (OSError, TimeoutError) as error:
        raise BenchError(f"cannot connect: {error}") from error
    before, began_s, began_cpu_s = _counts(readers), time.perf_counter(), time.process_time()
    await asyncio.wait({failed}, timeout=seconds)
    after, duration_s = _counts(readers), time.perf_counter() - began_s
    cpu_s = time.process_time() - began_cpu_s
    for reader in readers:
        reader.close()
    if failed.done():
        failed.result()
    events, streams, reads = (end - begin for begin, end in zip(before, after, strict=True))
    if not events:
        raise BenchError("no event came")
    return Streams(
        num_events=events,
        num_streams=streams,
        num_reads=reads,
        duration_s=duration_s,
        load_cpu_share=cpu_s / duration_s,
    )


def _counts(readers: list[_Reader]) -> tuple[int, int, int]:
    return (
        sum(reader.num_events for reader in readers),
        sum(reader.num_streams for reader in readers),
        sum(reader.num_reads for reader in readers),
    )


class _Reader(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, failed: asyncio.Future[None]) -> None:
        self.num_events = self.num_streams = self.num_reads = 0
        self._request = request
        self._failed = failed
        self._rest = b""
        self._is_new = True
        self._is_closed = False
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are of no class of asyncio's
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._is_new and not data.startswith(b"HTTP/1.1 200"):
            self._fail(f"the answer was {data[:500].decode(errors='replace')}")
        self._is_new = False
        self.num_reads += 1
        data = self._rest + data  # a field's name may come in two pieces
        self.num_events += data.count(_FIELD)
        self._rest = data[1 - len(_FIELD) :]
        if data.endswith(_LAST_CHUNK):
            self.num_streams += 1
            self._is_new, self._rest = True, b""
            assert self._transport is not None
            self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_closed:
            self._fail(f"a connection was lost: {exc or 'closed by the server'}")

    def close(self) -> None:
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, message: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(BenchError(message))
