"""What stands behind every stack alike: the engine, the request log, and the settings of both.

Knows no framework; each stack decides on which thread they run.
"""

from __future__ import annotations

from pathlib import Path

from bench.baselines.plan import API_KEY, MAX_BATCH_SIZE, StackSpec
from bench.stub_engine import StubEngine
from bench.stub_model import stub_model, stub_snapshot, tokenizing_model
from handler.boot import BootTimeline
from handler.engine.snapshot import open_snapshot
from handler.errors import ConfigurationError
from handler.requestlog.shipper import Shipping
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from handler.service import ServesModel
from handler.settings import Settings


def settings_of(spec: StackSpec) -> Settings:
    """What the function would be started with.

    Raises:
        ConfigurationError: a value that cannot work.
    """
    environ = {
        "PORT": str(spec.port),
        "API_KEYS": f"bench:{API_KEY}",
        "DATABASE_URL": spec.database,
        "SPOOL_DIR": str(Path(spec.directory) / "spool"),
        "PILOTLIGHT_HOME": spec.directory,
    }
    if spec.engine == "stub":
        environ["MAX_BATCH_SIZE"] = str(MAX_BATCH_SIZE)
    return Settings.from_env(environ)


def engine_of(spec: StackSpec, settings: Settings, timeline: BootTimeline) -> ServesModel:
    """The engine, not yet started.

    Raises:
        ConfigurationError: the real engine without a model.
        SnapshotError: the model cannot be read.
    """
    if spec.engine == "model":
        if spec.snapshot is None:
            raise ConfigurationError("snapshot", "the real engine needs a prepared model")
        from handler.cli.serve import engine_options  # noqa: PLC0415  (the function as a whole comes with it)
        from handler.engine.pool import EnginePool  # noqa: PLC0415

        return EnginePool(open_snapshot(Path(spec.snapshot)), engine_options(settings), timeline)
    if spec.snapshot is None:
        return StubEngine(stub_snapshot(), stub_model(), spec.step_s)
    snapshot = open_snapshot(Path(spec.snapshot))
    return StubEngine(snapshot, tokenizing_model(snapshot), spec.step_s)


def sink_of(settings: Settings) -> LogSink:
    """The request log, not yet started: records go to the spool, and from there to the database where there is one."""
    database = None if settings.database_url == "none" else settings.database_url
    return LogSink(Spool(settings.spool_directory), database, shipping=Shipping(pool_size=settings.db_pool_size))
