"""A real PostgreSQL for the tests: one embedded server for the session, a fresh database for each test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.installation import find_installation


class PostgresServer:
    """A running server on which databases can be made and dropped."""

    def __init__(self, home: Path, url: str) -> None:
        self._programs = find_installation(home).programs
        self._socket = parse_qs(urlsplit(url).query)["host"][0]
        self._url = url

    def create_database(self) -> tuple[str, str]:
        """A new, empty database: its name and its URL."""
        name = f"test_{uuid.uuid4().hex}"
        self._call("createdb", name)
        return name, self._url.replace("/postgres?", f"/{name}?")

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._call("dropdb", "--force", name)

    def _call(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, "-h", self._socket, "-U", "postgres", *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/", timeout=60)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's server. Not below pytest's own directory, which only our account may enter."""
    home = Path(tempfile.mkdtemp(prefix="pilotlight-tests-"))
    home.chmod(0o711)
    embedded = EmbeddedPostgres(home, server_options=["fsync=off"])
    try:
        yield PostgresServer(home, embedded.start())
    finally:
        embedded.stop()
        shutil.rmtree(home)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database that nobody has used before."""
    name, url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(name)
