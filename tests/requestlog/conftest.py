from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.migrations import migrate
from tests.postgres import postgres_server, postgres_url
from tests.requestlog.outage import Database
from tests.requestlog.proxy import Proxy

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture
def empty_home() -> Iterator[Path]:
    """A PILOTLIGHT_HOME that every account may pass through, as /home/somebody mostly is."""
    path = Path(tempfile.mkdtemp(prefix="pilotlight-home-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def initialised_home() -> Iterator[Path]:
    """A home with a database in it, to be copied."""
    path = Path(tempfile.mkdtemp(prefix="pilotlight-home-"))
    path.chmod(0o711)
    embedded = EmbeddedPostgres(path, server_options=["fsync=off"])
    embedded.start()
    embedded.stop()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def home(empty_home: Path, initialised_home: Path) -> Path:
    """A PILOTLIGHT_HOME that has been used before."""
    subprocess.run(["cp", "-a", initialised_home / "postgres", empty_home], check=True)
    return empty_home


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to an empty database."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def log_connection(connection: asyncpg.Connection) -> asyncpg.Connection:
    """A connection to a database that has the schema."""
    await migrate(connection)
    return connection


@pytest.fixture(scope="session")
def database(initialised_home: Path) -> Iterator[Database]:
    """A server of its own, for tests that kill it, with a proxy in front."""
    home = Path(tempfile.mkdtemp(prefix="pilotlight-home-"))
    home.chmod(0o711)
    subprocess.run(["cp", "-a", initialised_home / "postgres", home], check=True)
    database = Database(home)
    yield database
    database.stop()
    shutil.rmtree(home)


@pytest.fixture
async def proxy(database: Database) -> AsyncIterator[Proxy]:
    """In front of `database`, in good health."""
    async with database.proxy as proxy:
        yield proxy
