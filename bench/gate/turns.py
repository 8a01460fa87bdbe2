"""Short turns of two servers, over connections that stay open: what the machine does meanwhile happens to both.

A noisy machine is slower by a tenth or a fifth for moments of all lengths, whatever runs on it. Turns of some
hundredths of a second put two neighbours into one moment: a hundred pairs of them say as much as minutes of turns of a
second would.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import cast

import httptools
import uvloop

from bench.errors import BenchError
from bench.gate.blame import SIDES, blaming
from bench.gate.pair import Pair, abba

_LIMIT_S = 30.0


def neighbours(turns: Pair[Sequence[float]]) -> Pair[float]:
    """One figure of each side from those of their turns, the smaller the better.

    The base's is the median of its turns. The head's is that times the median of what its turns were to the base's
    turns beside them: of two such pairs at a time, since whoever has the second turn of a pair finds the processor's
    caches full of the other's data. That cost a sixth of a turn of ten milliseconds, and in the next pair it is the
    other one who pays.
    """
    base = statistics.median(turns.base)
    ratios = [head / base for base, head in zip(*turns, strict=True)]
    if len(ratios) > 1:
        ratios = [math.sqrt(one * next_one) for one, next_one in itertools.pairwise(ratios)]
    return Pair(base, base * statistics.median(ratios))


def take_turns(
    ports: Pair[int],
    request: bytes,
    *,
    connections: int,
    answers: int,
    turns: int,
    rng: random.Random,
    cpu_s: Pair[Callable[[], float]],
) -> tuple[Pair[list[float]], Pair[list[float]]]:
    """Seconds of each side's turns, and the processor time that its server used in each.

    Args:
        ports: of the servers.
        request: in HTTP, which is sent over and over.
        connections: to each of them.
        answers: that each connection gets in a turn, one after the other.
        turns: of each side.
        rng: of the order.
        cpu_s: what tells the processor time of either server so far.

    Raises:
        SideError: a connection failed, or an answer was an error.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_take_turns(ports, request, connections, answers, turns, rng, cpu_s))


async def _take_turns(
    ports: Pair[int],
    request: bytes,
    connections: int,
    answers: int,
    turns: int,
    rng: random.Random,
    cpu_s: Pair[Callable[[], float]],
) -> tuple[Pair[list[float]], Pair[list[float]]]:
    crowds = []
    for name, port in zip(SIDES, ports, strict=True):
        with blaming(name):
            crowds.append(await _Crowd.connect(port, request, connections))
    seconds: Pair[list[float]] = Pair([], [])
    used_s: Pair[list[float]] = Pair([], [])
    try:
        for side in abba(turns, rng):
            with blaming(SIDES[side]):
                before_s = cpu_s[side]()
                seconds[side].append(await crowds[side].take_turn(answers))
                used_s[side].append(cpu_s[side]() - before_s)
    finally:
        for crowd in crowds:
            crowd.close()
    return seconds, used_s


class _Crowd:
    """All connections to one server."""

    def __init__(self) -> None:
        self._clients: list[_Client] = []
        self._num_busy = 0
        self._over: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, port: int, request: bytes, connections: int) -> _Crowd:
        crowd = cls()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_LIMIT_S):
                for _ in range(connections):
                    _, client = await loop.create_connection(lambda: _Client(request, crowd), "127.0.0.1", port)
                    crowd._clients.append(client)
        except (OSError, TimeoutError) as error:
            raise BenchError(f"cannot connect: {error}") from error
        return crowd

    async def take_turn(self, answers: int) -> float:
        """Seconds until each connection has its answers."""
        self._over = asyncio.get_running_loop().create_future()
        self._num_busy = len(self._clients)
        began_s = time.perf_counter()
        for client in self._clients:
            client.begin(answers)
        try:
            async with asyncio.timeout(_LIMIT_S):
                await self._over
        except TimeoutError as error:
            raise BenchError(f"{self._num_busy} connections had no answer within {_LIMIT_S:g} s") from error
        return time.perf_counter() - began_s

    def note_done(self) -> None:
        """One connection has its answers."""
        self._num_busy -= 1
        if not self._num_busy and self._over is not None and not self._over.done():
            self._over.set_result(None)

    def fail(self, message: str) -> None:
        """End the turn."""
        if self._over is not None and not self._over.done():
            self._over.set_exception(BenchError(message))

    def close(self) -> None:
        self._over = None
        for client in self._clients:
            client.close()


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, crowd: _Crowd) -> None:
        self._request = request
        self._crowd = crowd
        self._parser = httptools.HttpResponseParser(self)
        self._left = 0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are of no class of asyncio's

    def begin(self, answers: int) -> None:
        """Ask for the first of so many answers."""
        self._left = answers
        self._ask()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._crowd.fail(f"no HTTP came back: {error}")

    def on_headers_complete(self) -> None:
        if (status := self._parser.get_status_code()) != 200:
            self._crowd.fail(f"an answer had status {status}")

    def on_message_complete(self) -> None:
        self._left -= 1
        if self._left:
            self._ask()
        else:
            self._crowd.note_done()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.fail(f"a connection was lost: {exc or 'closed by the server'}")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _ask(self) -> None:
        assert self._transport is not None
        self._transport.write(self._request)
