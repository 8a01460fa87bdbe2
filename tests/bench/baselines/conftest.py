from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bench.baselines.greetings import prepare_table
from bench.baselines.plan import Stack
from tests.bench.baselines.served import Served, serving
from tests.postgres import PostgresServer

BASELINES: tuple[Stack, ...] = ("fastapi", "flask", "django", "django-asgi")


@pytest.fixture(scope="session")
def greetings_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database with the greetings in it, for all stacks: each request has an id of its own."""
    name, url = postgres_server.create_database()
    asyncio.run(prepare_table(url))
    yield url
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def ours(greetings_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The function."""
    with serving("pilotlight", tmp_path_factory.mktemp("pilotlight"), greetings_url) as served:
        yield served


@pytest.fixture(scope="session", params=["pilotlight", *BASELINES])
def served(
    request: pytest.FixtureRequest, ours: Served, greetings_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The function, then each of those that it is compared with."""
    if request.param == "pilotlight":
        yield ours
        return
    with serving(request.param, tmp_path_factory.mktemp(request.param), greetings_url) as served:
        yield served
