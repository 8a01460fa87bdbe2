"""What fault tests have in common: a database that can be killed, and `pilotlight serve` over an engine that is fast.

What a client has whole is counted by the client, byte by byte. The rows must be those answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import asyncpg
import orjson
import psutil

from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.installation import find_installation
from tests.requestlog.proxy import Proxy
from tests.server import ServerProcess, until

PROGRAM = ("-m", "tests.requestlog.stub_server")
IMPATIENT = {
    "interval_s": 0.2,
    "connect_timeout_s": 1.0,
    "statement_timeout_s": 1.0,
    "longest_pause_s": 0.2,
    "adoption_interval_s": 1.0,
}
ANSWERS = 400
"""So many must come while something is broken: ten times what can be on its way when it breaks."""


class Database:
    """A PostgreSQL that may be killed, in front of it a proxy that may do worse."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._embedded = EmbeddedPostgres(home, server_options=["fsync=off"])
        self.url = self._embedded.start()
        self.proxy = Proxy(self.url)

    def kill(self) -> None:
        """SIGKILL to all of it at once."""
        postmaster = psutil.Process(int((find_installation(self._home).data / "postmaster.pid").read_text().split()[0]))
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=10)

    def start(self) -> None:
        """Bring it back; it recovers from its own log first."""
        assert self._embedded.start() == self.url

    def stop(self) -> None:
        self.proxy.close()
        self._embedded.stop()

    async def connection(self) -> asyncpg.Connection:
        """Straight to the database."""
        return await asyncpg.connect(self.url)

    async def holds(self, answers: list[str]) -> None:
        """Return when each of these answers has a row, and fail if one has more."""
        connection = await self.connection()

        async def look() -> bool | None:
            query = "select count(*), count(distinct request_id) from request_logs where request_id = any($1)"
            try:
                rows, ids = await connection.fetchrow(query, answers)
            except asyncpg.UndefinedTableError:
                return None  # the first function that came so far was killed before it had made the table
            assert rows == ids, "an answer has two rows"
            return True if ids == len(answers) else None

        try:
            await until(look, "each answer has its row")
        finally:
            await connection.close()

    async def rows(self, answers: list[str]) -> int:
        """How many rows these answers have."""
        connection = await self.connection()
        count: int = await connection.fetchval("select count(*) from request_logs where request_id = any($1)", answers)
        await connection.close()
        return count

    async def execute(self, sql: str) -> None:
        connection = await self.connection()
        await connection.execute(sql)
        await connection.close()


def environ(directory: Path, url: str, extra: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Of a server that writes below `directory`."""
    return {
        "PILOTLIGHT_HOME": str(directory / "home"),
        "SPOOL_DIR": str(directory / "spool"),
        "DATABASE_URL": url,
        "STUB_SHIPPING": orjson.dumps(IMPATIENT).decode(),
        **extra,
    }


@asynccontextmanager
async def function(
    directory: Path, url: str, extra: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[ServerProcess]:
    """A server of one's own, while the proxy goes on in this thread. It ends well, unless it was killed."""
    process = await asyncio.to_thread(ServerProcess(environ(directory, url, extra), program=PROGRAM).__enter__)
    try:
        yield process
    finally:
        if psutil.pid_exists(process.pid):
            assert await asyncio.to_thread(process.stop) == 0


async def met(condition: bool) -> bool | None:
    return True if condition else None
