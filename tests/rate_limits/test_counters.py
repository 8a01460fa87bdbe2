from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest

from handler.errors import ConfigurationError
from handler.rate_limits import counters as module
from handler.rate_limits.counters import Counters
from handler.rate_limits.window import Bucket
from tests.rate_limits.clock import Clock
from tests.redis_server import PASSWORD, RedisServer, hanging_redis

BUCKET = Bucket("model/alice/tokens", 10)


@pytest.fixture
async def shared(redis_server: RedisServer) -> AsyncIterator[tuple[Counters, Counters]]:
    """Two instances' counters in one Redis."""
    both = Counters(redis_server.url), Counters(redis_server.url)
    yield both
    for counters in both:
        await counters.close()


async def remaining(counters: Counters) -> int:
    return (await counters.look(BUCKET)).remaining


async def test_an_amount_is_taken_whole_or_not_at_all(clock: Clock) -> None:
    counters = Counters(None)
    assert await counters.take(BUCKET, 7)
    assert not await counters.take(BUCKET, 4)
    assert await remaining(counters) == 3
    assert await counters.take(BUCKET, 3)
    clock.now_s += 120
    assert await remaining(counters) == 10


async def test_no_more_is_given_back_than_was_taken_in_this_period(clock: Clock) -> None:
    counters = Counters(None)
    assert await counters.take(BUCKET, 7)
    await asyncio.gather(*(counters.give_back(BUCKET, 5) for _ in range(4)))
    assert (await counters.look(BUCKET)).current == 0
    clock.now_s += 60
    await counters.give_back(BUCKET, 5)
    assert (await counters.look(BUCKET)).current == 0


async def test_instances_share_what_redis_counts(shared: tuple[Counters, Counters]) -> None:
    first, second = shared
    taken = await asyncio.gather(*((first, second)[number % 2].take(BUCKET, 1) for number in range(40)))
    assert sum(taken) == 10
    assert await remaining(second) == 0
    await asyncio.gather(*(first.give_back(BUCKET, 4) for _ in range(4)))
    assert (await second.look(BUCKET)).current == 0
    assert await second.take(BUCKET, 6)
    assert await remaining(first) == 4
    await second.add(BUCKET, 100)
    assert await remaining(first) == 0


async def test_a_window_in_redis_opens_when_it_says(shared: tuple[Counters, Counters]) -> None:
    first, second = shared
    bucket = Bucket("short", 4, period_s=1)
    assert await first.take(bucket, 4)
    window = await second.look(bucket)
    assert 1.0 < window.reset_s <= 2.0
    await asyncio.sleep(window.wait_s(2) - 0.1)
    assert not await second.take(bucket, 2)
    await asyncio.sleep((await second.look(bucket)).wait_s(2))
    assert await second.take(bucket, 2)


async def test_while_redis_is_away_each_instance_counts_for_itself(
    shared: tuple[Counters, Counters],
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = shared
    caplog.set_level(logging.INFO)
    assert await first.take(BUCKET, 10)
    redis_server.kill()
    for counters in shared:
        assert await counters.take(BUCKET, 8)
        assert not await counters.take(BUCKET, 8)
    assert len(caplog.records) == 2  # one of each, and not one of each request
    redis_server.start()
    monkeypatch.setattr(module.time, "monotonic", lambda now=time.monotonic: now() + 3600)
    assert await first.take(BUCKET, 10)  # the new Redis knows of nothing
    assert not await second.take(BUCKET, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2 + ["INFO"] * 2
    assert PASSWORD not in caplog.text + "".join(str(vars(record)) for record in caplog.records)


async def test_a_connection_that_ended_while_it_idled_is_no_outage(
    shared: tuple[Counters, Counters], redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = shared
    assert await first.take(BUCKET, 1)
    redis_server.kill()
    redis_server.start()
    assert await first.take(BUCKET, 10)
    assert not caplog.records


async def test_a_redis_that_hangs_is_waited_for_once(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[None] = []
    async with hanging_redis() as url:
        counters = Counters(url, lambda: failures.append(None))
        start_s = time.monotonic()
        taken = await asyncio.gather(*(counters.take(BUCKET, 1) for _ in range(50)))
        assert sum(taken) == 10
        assert not await counters.take(BUCKET, 1)
        assert time.monotonic() - start_s < module._AWAY_S  # together, and not one behind the other
        assert len(caplog.records) == 1
        assert len(failures) == 50  # those that were on their way
        await counters.close()
    assert PASSWORD not in caplog.text


async def test_a_url_that_the_client_cannot_read_names_its_setting() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Counters("redis://:hunter2@h/0?db=hunter2")
    assert caught.value.key == "REDIS_URL"
    assert "hunter2" not in str(caught.value)
