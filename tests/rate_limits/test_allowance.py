"""An allowance whose request is cancelled while Redis is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest

from handler.rate_limits.allowance import Allowance
from handler.rate_limits.counters import Counters
from handler.rate_limits.window import Bucket
from tests.redis_server import RedisServer

BUCKET = Bucket("model/alice/tokens", 100)

T = TypeVar("T")


class GatedCounters(Counters):
    """Counters whose Redis is slow: each call says so by `called`, and waits until `gate` is open."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url)
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Event()

    async def _call(self, operation: Callable[[Any], Awaitable[T]]) -> T:
        self.called.set()
        await self.gate.wait()
        return await super()._call(operation)


@pytest.fixture
async def counters(redis_server: RedisServer) -> AsyncIterator[GatedCounters]:
    counters = GatedCounters(redis_server.url)
    yield counters
    await counters.close()


async def cancelled_in_call(counters: GatedCounters, work: Callable[[], Awaitable[None]]) -> None:
    """Begin, cancel while the first call is on its way, let it arrive."""
    counters.gate.clear()
    counters.called.clear()
    task = asyncio.ensure_future(work())
    await counters.called.wait()
    task.cancel()
    counters.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def remaining(counters: Counters) -> int:
    return (await counters.look(BUCKET)).remaining


async def test_what_a_cancelled_request_was_reserving_comes_back(counters: GatedCounters) -> None:
    allowance = Allowance(counters, None, BUCKET)
    await cancelled_in_call(counters, lambda: allowance.reserve(10, 50, "max_tokens"))
    assert await remaining(counters) == 40
    await allowance.settle(0)
    assert await remaining(counters) == 100


async def test_a_settlement_that_is_cancelled_can_be_repeated(counters: GatedCounters) -> None:
    allowance = Allowance(counters, None, BUCKET)
    await allowance.reserve(10, 50, "max_tokens")
    await cancelled_in_call(counters, lambda: allowance.settle(15))
    await allowance.settle(15)
    assert await remaining(counters) == 85
    await allowance.settle(15)
    assert await remaining(counters) == 85


async def test_a_count_that_was_under_way_is_not_made_twice(counters: GatedCounters) -> None:
    allowance = Allowance(counters, None, BUCKET)
    await cancelled_in_call(counters, lambda: allowance.settle(30))
    await allowance.settle(30)
    assert await remaining(counters) == 70
