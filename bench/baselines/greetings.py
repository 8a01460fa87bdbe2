"""The small table that `GET /database` reads a row of, and the ways to it that more than one stack goes.

Knows no framework. Django reads the same table through its own ORM (`django_models`).
"""

from __future__ import annotations

import random

import asyncpg

from bench.baselines.plan import NUM_GREETINGS
from bench.errors import BenchError

SELECT = "SELECT id, message FROM greetings WHERE id = $1"
"""As asyncpg numbers parameters."""

NUM_CONNECTIONS = 16
"""To PostgreSQL at most, for stacks that do not hold one in each thread."""


async def prepare_table(url: str) -> None:
    """Make the table and its rows, unless they are there.

    Raises:
        BenchError: the database cannot be reached, or holds another table of that name.
    """
    try:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("CREATE TABLE IF NOT EXISTS greetings (id int PRIMARY KEY, message text NOT NULL)")
            await connection.execute(
                "INSERT INTO greetings SELECT id, 'Hello, number ' || id || '!' FROM generate_series(1, $1) AS id "
                "ON CONFLICT DO NOTHING",
                NUM_GREETINGS,
            )
            await connection.execute("ANALYZE greetings")
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError) as error:
        raise BenchError(f"table greetings: {error}") from error


def random_id() -> int:
    """Of one of the rows."""
    return random.randint(1, NUM_GREETINGS)  # noqa: S311  (any row will do)


def open_pool(url: str) -> asyncpg.Pool:
    """Connections for an event loop; to be entered with `async with`."""
    return asyncpg.create_pool(url, min_size=NUM_CONNECTIONS, max_size=NUM_CONNECTIONS)
