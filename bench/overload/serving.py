"""The function with a stub engine in a process of its own: `python -m bench.overload.serving`.

Settings come from the environment, PORT among them. The engine has as many places as MAX_BATCH_SIZE says, and each is
as fast however many of them are taken.
"""

from __future__ import annotations

import os

import uvicorn

from bench.stub_engine import StubEngine
from bench.stub_model import stub_model, stub_snapshot
from handler.app import create_app
from handler.boot import BootTimeline
from handler.cli.listener import bind
from handler.cli.serve import calm_collector, uvicorn_config
from handler.logs import configure_logging
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from handler.settings import Settings

STEP_S = 0.005


def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings.from_env(os.environ)
    configure_logging(settings.log_level)
    engine = StubEngine(stub_snapshot(), stub_model(), STEP_S, settings.max_batch_size)
    sink = LogSink(Spool(settings.spool_directory), None)
    app = create_app(settings, engine, sink, BootTimeline(), on_ready=lambda _: calm_collector())
    listener = bind(settings.host, settings.port)
    uvicorn.Server(uvicorn_config(app, settings, listener)).run([listener])


if __name__ == "__main__":
    main()
