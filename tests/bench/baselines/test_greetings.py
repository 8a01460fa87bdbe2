from __future__ import annotations

import asyncpg
import pytest

from bench.baselines.greetings import prepare_table
from bench.baselines.plan import NUM_GREETINGS
from bench.errors import BenchError


async def test_the_table_is_made_once(postgres_url: str) -> None:
    await prepare_table(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("DELETE FROM greetings WHERE id = 7")
        await connection.execute("UPDATE greetings SET message = 'kept' WHERE id = 8")
        await prepare_table(postgres_url)
        assert await connection.fetchval("SELECT count(*) FROM greetings") == NUM_GREETINGS
        rows = await connection.fetch("SELECT message FROM greetings WHERE id IN (7, 8) ORDER BY id")
        assert [row["message"] for row in rows] == ["Hello, number 7!", "kept"]
    finally:
        await connection.close()


async def test_a_database_that_cannot_be_reached(postgres_url: str) -> None:
    with pytest.raises(BenchError, match="greetings: "):
        await prepare_table(postgres_url.replace("test_", "absent_"))
