"""The function as an ASGI application of somebody else's server: Modal's, Ray Serve's, any that takes a factory.

`pilotlight serve` does more: it binds before anything is imported, gathers writes, bounds what one client may hold, and
ends in order on SIGTERM. Here those are the server's to do.
"""

from __future__ import annotations

import atexit
import os

from starlette.applications import Starlette

from handler.app import create_app
from handler.boot import BootTimeline
from handler.cli.serve import calm_collector, open_engine, open_log, pause_collector
from handler.logs import configure_logging
from handler.settings import Settings


def application() -> Starlette:
    """The function with the settings of the environment; its lifespan boots and stops it.

    Raises:
        ConfigurationError: a setting cannot work.
        SnapshotError: the model could not be prepared.
    """
    pause_collector()
    timeline = BootTimeline()
    settings = Settings.from_env(os.environ)
    configure_logging(settings.log_level)
    engine = open_engine(settings, timeline)
    sink, embedded = open_log(settings)
    if embedded is not None:
        atexit.register(embedded.stop)  # after the lifespan, which ships to it
    return create_app(settings, engine, sink, timeline, on_ready=lambda _: calm_collector())


def import_engine() -> None:
    """Import what takes longest, for platforms that keep a process's memory: whoever is restored has it already."""
    from handler.engine.lean_torch import import_torch  # noqa: PLC0415  (nobody else has to wait for torch here)

    import_torch()
    from handler.engine import loading  # noqa: F401, PLC0415
