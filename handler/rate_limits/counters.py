"""Where limits are counted: in Redis, which all instances share, or in this process. Event loop only.

While Redis does not answer, each instance counts for itself: requests are neither refused nor let in without limit for
what is none of their doing. Nobody waits longer than `_PATIENCE_S` for each step of an exchange with it (a connection,
a password, a count), and once it was too long nobody does for `_AWAY_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from limits.aio.storage import MemoryStorage, RedisStorage
from redis.asyncio import BlockingConnectionPool, RedisError
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from handler.errors import ConfigurationError
from handler.logs import FIELDS
from handler.rate_limits.window import Bucket, Window

logger = logging.getLogger(__name__)

_PATIENCE_S = 0.25
_AWAY_S = 5.0
_MAX_CONNECTIONS = 16
_KEY_PREFIX = "pilotlight"

T = TypeVar("T")


class Counters:
    """Counts by bucket.

    Args:
        redis_url: of the Redis, or None.
        on_failure: called each time that Redis fails to answer.
    """

    def __init__(self, redis_url: str | None, on_failure: Callable[[], None] = lambda: None) -> None:
        self._memory = MemoryStorage()
        self._on_failure = on_failure
        self._away_until_s = 0.0
        self._is_away = False
        self._refunds = asyncio.Lock()
        self._pool = None if redis_url is None else _pool(redis_url)
        self._redis: RedisStorage | None = None
        if self._pool is not None:
            pool: Any = self._pool  # which `limits` takes, but does not declare
            self._redis = RedisStorage(
                "async+redis://", implementation="redispy", key_prefix=_KEY_PREFIX, connection_pool=pool
            )

    async def take(self, bucket: Bucket, amount: int) -> bool:
        """Count an amount if it fits into the limit, all of it or nothing."""
        return await self._to_the_end(self._count(bucket, amount, bucket.limit))

    async def add(self, bucket: Bucket, amount: int) -> None:
        """Count an amount that has been taken already, whatever the limit."""
        await self._to_the_end(self._count(bucket, amount, sys.maxsize))

    async def give_back(self, bucket: Bucket, amount: int) -> None:
        """Take back some of what this period has counted; at most all of it."""
        await self._to_the_end(self._give_back(bucket, amount))

    async def look(self, bucket: Bucket) -> Window:
        """The bucket's window, now."""
        counts = await self._call(lambda storage: storage.get_sliding_window(bucket.name, bucket.period_s))
        return Window(bucket.limit, bucket.period_s, *counts)

    async def close(self) -> None:
        """End the connections to Redis."""
        if self._pool is not None:
            with contextlib.suppress(RedisError, OSError):
                await self._pool.aclose()

    async def _give_back(self, bucket: Bucket, amount: int) -> None:
        async with self._refunds:  # between the look and the change, nobody here gives back from the same period
            amount = min(amount, (await self.look(bucket)).current)
            if amount > 0:
                await self._count(bucket, -amount, sys.maxsize)

    async def _count(self, bucket: Bucket, amount: int, limit: int) -> bool:
        return await self._call(
            lambda storage: storage.acquire_sliding_window_entry(bucket.name, limit, bucket.period_s, amount)
        )

    async def _to_the_end(self, change: Coroutine[Any, Any, T]) -> T:
        """The result; a change that Redis may have made already is finished even if who waits for it is cancelled."""
        if self._redis is None:
            return await change
        task = asyncio.ensure_future(change)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise

    async def _call(self, operation: Callable[[MemoryStorage | RedisStorage], Awaitable[T]]) -> T:
        if self._redis is None or time.monotonic() < self._away_until_s:
            return await operation(self._memory)
        try:
            result = await operation(self._redis)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            self._note_failure(error)
            return await operation(self._memory)
        if self._is_away:
            self._is_away = False
            logger.info("Redis answers again: rate limits are shared")
        return result

    def _note_failure(self, error: Exception) -> None:
        self._on_failure()
        self._away_until_s = time.monotonic() + _AWAY_S
        if not self._is_away:
            self._is_away = True
            fields = {"cause": f"{type(error).__name__}: {error}"}
            logger.warning("Redis does not answer: this process counts rate limits alone", extra={FIELDS: fields})


def _pool(redis_url: str) -> BlockingConnectionPool:
    try:
        return BlockingConnectionPool.from_url(
            redis_url,
            max_connections=_MAX_CONNECTIONS,
            timeout=_PATIENCE_S,
            socket_timeout=_PATIENCE_S,
            socket_connect_timeout=_PATIENCE_S,
            retry=Retry(NoBackoff(), 1),  # once, for a connection that ended while it idled
        )
    except ValueError:  # its message may hold the password
        raise ConfigurationError("REDIS_URL", "must be a URL that Redis' client understands, got a secret") from None
