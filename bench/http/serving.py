"""One server of the benchmark in a process of its own, on one processor: `python -m bench.http.serving SPEC`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import uvicorn
from starlette.types import ASGIApp

from bench.http.plan import API_KEY, NO_LOG, ServerSpec
from bench.stub_engine import StubEngine
from bench.stub_model import stub_model, stub_snapshot, tokenizing_model
from handler.app import create_app
from handler.boot import BootTimeline
from handler.cli.listener import bind
from handler.cli.serve import calm_collector, uvicorn_config
from handler.engine.snapshot import Snapshot, open_snapshot
from handler.logs import configure_logging
from handler.requestlog.line import Entry
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from handler.settings import Settings

_MAX_BATCH_SIZE = 4096
"""The engine takes any number at once, so nobody has to wait."""


def main() -> None:
    """Serve until SIGTERM."""
    spec = msgspec.json.decode(sys.argv[1], type=ServerSpec)
    os.sched_setaffinity(0, {spec.core})
    settings = Settings.from_env(
        {
            "PORT": str(spec.port),
            "API_KEYS": f"bench:{API_KEY}",
            "DATABASE_URL": "none" if spec.database == NO_LOG else spec.database,
            "SPOOL_DIR": str(Path(spec.directory) / "spool"),
            "PILOTLIGHT_HOME": spec.directory,
            "MAX_BATCH_SIZE": str(_MAX_BATCH_SIZE),
        }
    )
    with (Path(spec.directory) / "log").open("w", encoding="utf-8") as log:
        configure_logging("info", log)
        listener = bind(settings.host, settings.port)
        config = uvicorn_config(_app(spec, settings), settings, listener)
        if spec.kind in {"bare", "fastapi", "fastapi-generator"}:
            config.http = "httptools"  # as everybody else runs uvicorn; ours is a part of what is measured
        uvicorn.Server(config).run([listener])


def _app(spec: ServerSpec, settings: Settings) -> ASGIApp:
    snapshot = stub_snapshot() if spec.snapshot is None else open_snapshot(Path(spec.snapshot))
    match spec.kind:
        case "bare" | "bare-gathered":
            from bench.http.bare import bare  # noqa: PLC0415  (each process imports what it serves, and no more)

            return bare
        case "pilotlight":
            sink_class = _NoLog if spec.database == NO_LOG else LogSink
            sink = sink_class(
                Spool(settings.spool_directory), None if settings.database_url == "none" else spec.database
            )
            engine = _engine(snapshot, spec)
            return create_app(settings, engine, sink, BootTimeline(), on_ready=lambda _: calm_collector())
        case "fastapi":
            from bench.http.fastapi_streams import streaming_app  # noqa: PLC0415

            return streaming_app(_engine(snapshot, spec))
        case "fastapi-generator":
            from bench.http.fastapi_streams import streaming_app  # noqa: PLC0415

            return streaming_app(None)


class _NoLog(LogSink):
    """Loses what it is given: the line in the function's own log is all that a request leaves behind."""

    def submit(self, *entries: Entry) -> None:
        """Do nothing."""


def _engine(snapshot: Snapshot, spec: ServerSpec) -> StubEngine:
    model = stub_model() if spec.snapshot is None else tokenizing_model(snapshot)
    return StubEngine(snapshot, model, spec.step_s)


if __name__ == "__main__":
    main()
