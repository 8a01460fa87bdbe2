"""Loads on a server that may refuse.

A closed one: each client has its next request when its last one is answered. And an open one: requests arrive when they
arrive, whatever became of those before them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import uvloop

from bench.client import Attempt, Endpoint, attempt_chat
from bench.workload import story_prompt

_RAMP_SHARE = 0.25
"""Of each load: until then queue and batch fill, and nothing is counted."""
_MOST_ARRIVALS = 100_000


class LoadSample(msgspec.Struct, frozen=True, kw_only=True):
    """All attempts of one load. Times are of `time.perf_counter`.

    Attributes:
        attempts: in the order in which they ended.
        began_s: when the load began.
        seconds: how long requests were sent.
        lags_s: by how much later than planned each request of an open loop was sent.
    """

    attempts: tuple[Attempt, ...]
    began_s: float
    seconds: float
    lags_s: tuple[float, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Of all whole answers."""
        return sum(each.sample.completion_tokens for each in self.attempts if each.sample is not None)

    @property
    def tokens_per_s(self) -> float:
        """Tokens that arrived once the ramp was over and before the load ended, over that time."""
        first_s, last_s = self.began_s + _RAMP_SHARE * self.seconds, self.began_s + self.seconds
        tokens = 0.0
        for attempt in self.attempts:
            if attempt.sample is not None:
                times = attempt.sample.token_times_s
                in_time = sum(first_s <= time_s < last_s for time_s in times)
                tokens += attempt.sample.completion_tokens * in_time / len(times)
        return tokens / (last_s - first_s)

    @property
    def steady(self) -> list[Attempt]:
        """Those that were sent once the ramp was over."""
        return [each for each in self.attempts if each.sent_s >= self.began_s + _RAMP_SHARE * self.seconds]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask for what."""

    endpoint: Endpoint
    tokens: int
    timeout_s: float
    seed: int

    def closed(self, num_clients: int, seconds: float) -> LoadSample:
        """So many clients, for so long.

        Raises:
            BenchError: a request was not answered at all.
        """

        async def run() -> LoadSample:
            began_s = time.perf_counter()
            numbers = iter(range(1_000_000))
            attempts: list[Attempt] = []

            async def client() -> None:
                while time.perf_counter() < began_s + seconds:
                    attempts.append(await self._attempt(next(numbers)))

            await _all(client() for _ in range(num_clients))
            return LoadSample(attempts=tuple(attempts), began_s=began_s, seconds=seconds)

        return _run(run)

    def open(self, rate_per_s: float, seconds: float) -> LoadSample:
        """Arrivals at random (Poisson), for so long; ends when the last one has its answer.

        Raises:
            BenchError: a request was not answered at all.
        """

        async def run() -> LoadSample:
            began_s = time.perf_counter()
            attempts: list[Attempt] = []
            lags_s: list[float] = []

            async def request(number: int, after_s: float) -> None:
                await asyncio.sleep(began_s + after_s - time.perf_counter())
                lags_s.append(time.perf_counter() - began_s - after_s)
                attempts.append(await self._attempt(1_000_000 + number))

            arrivals = enumerate(_arrivals(rate_per_s, seconds, self.seed))
            await _all(request(number, after_s) for number, after_s in arrivals)
            return LoadSample(attempts=tuple(attempts), began_s=began_s, seconds=seconds, lags_s=tuple(lags_s))

        return _run(run)

    async def _attempt(self, number: int) -> Attempt:
        return await attempt_chat(self.endpoint, story_prompt(self.seed, number), self.tokens, self.timeout_s)


def _arrivals(rate_per_s: float, seconds: float, seed: int) -> Iterator[float]:
    """Seconds after the beginning, in order."""
    rng = random.Random(f"{seed}/arrivals/{rate_per_s}")  # noqa: S311  (a repeatable choice, not a secret)
    after_s = rng.expovariate(rate_per_s)
    for _ in range(_MOST_ARRIVALS):
        if after_s >= seconds:
            return
        yield after_s
        after_s += rng.expovariate(rate_per_s)


async def _all(clients: Iterator[Awaitable[None]]) -> None:
    tasks = [asyncio.ensure_future(client) for client in clients]
    try:
        await asyncio.gather(*tasks)
    finally:  # one failure ends the others
        for task in tasks:
            task.cancel()


def _run(load: Callable[[], Awaitable[LoadSample]]) -> LoadSample:
    async def run() -> LoadSample:
        return await load()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
