"""The PostgreSQL that the log is written to: where it runs, what it holds, and the processor time that it took."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import asyncpg
import psutil

from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.installation import find_installation
from handler.requestlog.migrations import migrate


class Postgres:
    """An embedded server that is running.

    Attributes:
        url: of its database.
        postmaster: its first process.
    """

    def __init__(self, url: str, postmaster: int) -> None:
        self.url = url
        self.postmaster = postmaster

    def empty(self) -> None:
        """Leave no row, in a database that has the schema, and nothing to do for later."""
        asyncio.run(self._call("truncate request_logs", "checkpoint"))

    def count_rows(self) -> int:
        """Rows of the log."""
        return asyncio.run(self._call("select count(*) from request_logs"))

    def pin(self, cores: Collection[int]) -> None:
        """Let all its processes, and those that they will start, use these processors only."""
        for process in _processes(self.postmaster):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, cores)

    async def _call(self, *statements: str) -> int:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self.url)
        try:
            await migrate(connection)
            for statement in statements:
                answer = await connection.fetchval(statement)
            return int(answer or 0)
        finally:
            await connection.close()


def postgres_cpu_s(postmaster: int) -> float:
    """Processor time of all its processes, of those that have ended too."""
    total_s = 0.0
    for process in _processes(postmaster):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total_s += times.user + times.system
            if process.pid == postmaster:
                total_s += times.children_user + times.children_system
    return total_s


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """An empty one. Not below a directory that only our account may enter."""
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        home = Path(directory)
        home.chmod(0o711)
        embedded = EmbeddedPostgres(home)
        try:
            url = embedded.start()
            pid_file = find_installation(home).data / "postmaster.pid"
            yield Postgres(url, int(pid_file.read_text(encoding="utf-8").partition("\n")[0]))
        finally:
            embedded.stop()


def _processes(postmaster: int) -> list[psutil.Process]:
    first = psutil.Process(postmaster)
    return [first, *first.children(recursive=True)]
