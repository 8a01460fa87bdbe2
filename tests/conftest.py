"""Fixtures that more than one directory of tests uses. Everything behind them is the real thing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import msgspec
import pytest

from handler.boot import BootTimeline
from handler.engine.core import EngineCore
from handler.engine.loading import load_core
from handler.engine.options import EngineOptions
from handler.engine.snapshot import MANIFEST_FILE, Manifest, Snapshot, open_snapshot
from handler.prepare.int8 import write_int8
from handler.prepare.preparation import prepare
from handler.prepare.progress import NoProgress
from tests.postgres import PostgresServer, postgres_server, postgres_url
from tests.server import LoggedServer, ServerProcess, logged_process
from tests.tiny_models import make_model, save_model

__all__ = ["postgres_server", "postgres_url"]

# How long one example takes is the machine's affair: timing goals live in benchmarks.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

TEST_HOME = Path(__file__).parent.parent / ".cache" / "pilotlight"
"""Kept between runs, so that the embedded model is prepared once per checkout."""

LoadTiny = Callable[..., EngineCore]


@pytest.fixture(scope="session")
def embedded_snapshot() -> Snapshot:
    """The embedded model, prepared as a user prepares it."""
    return prepare("smollm2-135m", TEST_HOME, NoProgress())


@pytest.fixture(scope="session")
def tiny_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Snapshot]:
    """A snapshot of a random tiny model by the name of its variant, made once."""
    made: dict[str, Snapshot] = {}

    def snapshot(variant: str) -> Snapshot:
        if variant not in made:
            directory = save_model(make_model(variant), tmp_path_factory.mktemp(variant))
            made[variant] = Snapshot(
                directory,
                variant,
                Manifest(
                    format_version=1, source="test", name=variant, files=(), created_at="2026-01-01T00:00:00+00:00"
                ),
            )
        return made[variant]

    return snapshot


@pytest.fixture(scope="session")
def tiny_served(tiny_snapshot: Callable[[str], Snapshot], tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The tiny Llama as `find_snapshot` finds it: with int8 weights, a manifest and a chat template."""
    tiny = tiny_snapshot("llama")
    directory = tmp_path_factory.mktemp("served") / "llama"
    shutil.copytree(tiny.directory, directory)
    (directory / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    write_int8(directory, NoProgress())
    (directory / MANIFEST_FILE).write_bytes(msgspec.json.encode(tiny.manifest))
    return open_snapshot(directory)


@pytest.fixture
def tiny_environ(tiny_served: Snapshot, tmp_path: Path) -> dict[str, str]:
    """Settings of a server of that model, on the CPU and without a database."""
    return {
        "PILOTLIGHT_HOME": str(tmp_path),
        "DATABASE_URL": "none",
        "MODEL_NAME": str(tiny_served.directory),
        "MODEL_DEVICE": "cpu",
    }


@pytest.fixture
def load_tiny(tiny_snapshot: Callable[[str], Snapshot]) -> LoadTiny:
    """Loads a tiny model in float32 on the CPU; keyword arguments are EngineOptions."""

    def load(variant: str = "llama", **options: object) -> EngineCore:
        defaults = {"device": "cpu", "dtype": "float32"}
        return load_core(tiny_snapshot(variant), EngineOptions(**(defaults | options)), BootTimeline())

    return load


@pytest.fixture(scope="session")
def embedded_core(embedded_snapshot: Snapshot) -> EngineCore:
    """The embedded model in float32."""
    return load_core(embedded_snapshot, EngineOptions(device="cpu", dtype="float32"), BootTimeline())


@pytest.fixture(scope="session")
def server(embedded_snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that only talk HTTP: embedded model, records in its spool."""
    environ = {
        "PILOTLIGHT_HOME": str(TEST_HOME),
        "SPOOL_DIR": str(tmp_path_factory.mktemp("spool")),
        "DATABASE_URL": "none",
    }
    with ServerProcess(environ) as process:
        yield process


@pytest.fixture(scope="session")
def logged_server(
    embedded_snapshot: Snapshot, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoggedServer]:
    """A server that writes its records to PostgreSQL, asks for a key, and has room for two sequences and one more."""
    spool = tmp_path_factory.mktemp("spool")
    limits = {"MAX_BATCH_SIZE": "2", "MAX_QUEUED_REQUESTS": "1", "MAX_BODY_BYTES": "65536"}
    with logged_process(postgres_server, TEST_HOME, spool, limits) as server:
        yield server
