"""What a database can do to the function, under load and on a real server.

The promise: a response that a client has whole has exactly one row, whatever dies. While the database is away clients
must go on getting answers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.requestlog.load import Load
from tests.requestlog.outage import ANSWERS, PROGRAM, Database, environ, met
from tests.requestlog.proxy import Fault, Proxy
from tests.server import ServerProcess, until


@pytest.fixture(scope="module")
def server(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One that goes through all that a database can do to it."""
    directory = tmp_path_factory.mktemp("faults")
    with ServerProcess(environ(directory, database.proxy.url), program=PROGRAM) as process:
        yield process
        assert process.stop() == 0
        assert not process.entries("record not spooled")
        assert not any("rejected" in line for line in process.lines)


async def test_a_database_that_is_killed_and_comes_back(
    server: ServerProcess, database: Database, proxy: Proxy
) -> None:
    async with Load(server.address) as load:
        await load.more(ANSWERS)
        await asyncio.to_thread(database.kill)
        await load.more(ANSWERS)
        await asyncio.to_thread(database.start)
        await load.more(ANSWERS)
    await database.holds(load.whole)


async def test_a_database_that_accepts_and_never_answers(
    server: ServerProcess, database: Database, proxy: Proxy
) -> None:
    async with Load(server.address) as load:
        await load.more(ANSWERS)
        proxy.hang()
        seen = proxy.accepted
        await load.more(ANSWERS)
        await until(lambda: met(proxy.accepted >= seen + 2), "it has tried again, and waited in vain again")
        proxy.recover()
        await load.more(ANSWERS)
    await database.holds(load.whole)


async def test_connections_that_are_cut_anywhere(server: ServerProcess, database: Database, proxy: Proxy) -> None:
    lengths = random.Random(7)
    async with Load(server.address) as load:
        proxy.cut_each_after(lambda: lengths.randrange(100, 40_000))
        proxy.cut()
        hits = proxy.hits
        await until(lambda: met(proxy.hits >= hits + 20), "twenty connections were cut")
        proxy.cut_each_after(None)
        await load.more(ANSWERS)
    await database.holds(load.whole)


@pytest.mark.parametrize("fault", Fault)
async def test_a_connection_that_is_lost_around_its_commit(
    server: ServerProcess, database: Database, proxy: Proxy, fault: Fault
) -> None:
    async with Load(server.address) as load:
        await load.more(ANSWERS)
        hits = proxy.hits
        proxy.on(b"COMMIT", fault)
        await until(lambda: met(proxy.hits > hits), "a commit was sent")
        await load.more(ANSWERS)
    await database.holds(load.whole)


WRONG_SCHEMAS = {
    "another table of that name": (
        "alter table request_logs rename to kept; create table request_logs (id integer, note text)",
        "drop table request_logs; alter table kept rename to request_logs",
    ),
    "a column that nobody fills": (
        "alter table request_logs add tenant text; alter table request_logs add check (tenant is not null) not valid",
        "alter table request_logs drop tenant",
    ),
    "a newer version": (
        "insert into pilotlight_schema_version (version) values (99)",
        "delete from pilotlight_schema_version where version = 99",
    ),
}


@pytest.mark.parametrize("schema", WRONG_SCHEMAS)
async def test_a_wrong_schema(server: ServerProcess, database: Database, proxy: Proxy, schema: str) -> None:
    breaking, mending = WRONG_SCHEMAS[schema]
    async with Load(server.address) as load:
        await load.more(ANSWERS)
        await database.execute(breaking)
        seen = proxy.accepted
        proxy.on(b"COPY", Fault.CUT)  # or a connection that stays open would not look at the version again
        await load.more(ANSWERS)
        await until(lambda: met(proxy.accepted >= seen + 2), "it was refused and tried again")
        await database.execute(mending)
        await load.more(ANSWERS)
    await database.holds(load.whole)
