"""Flask or Django with what lives beside it in a WSGI server's worker: engine, request log, connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from bench.baselines.backend import engine_of, sink_of
from bench.baselines.background import Background
from bench.baselines.chat import Chat
from bench.baselines.plan import StackSpec
from handler.boot import BootTimeline
from handler.settings import Settings

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class WsgiStack:
    """Opened and closed in the worker's process, once."""

    def __init__(self, spec: StackSpec, settings: Settings) -> None:
        self._spec = spec
        self._settings = settings
        self._opened = ExitStack()

    def open(self) -> WsgiApp:
        """Start everything, and return the application."""
        spec, settings = self._spec, self._settings
        engine = engine_of(spec, settings, BootTimeline())
        background = Background(engine, partial(sink_of, settings))
        self._opened.callback(background.close)
        chat = Chat(settings, engine, background.keep)
        database = None if spec.database == "none" else spec.database
        if spec.stack == "django":
            from bench.baselines.django_wsgi import django_wsgi_app  # noqa: PLC0415  (each imports what it serves)

            return django_wsgi_app(chat, database, settings.max_body_bytes)
        from psycopg_pool import ConnectionPool  # noqa: PLC0415

        from bench.baselines.flask_app import flask_app  # noqa: PLC0415

        pool = None
        if database is not None:
            size = spec.threads  # each thread has its connection when it asks for one
            pool = ConnectionPool(database, min_size=size, max_size=size, kwargs={"autocommit": True}, open=False)
            pool.open(wait=True)
            self._opened.callback(pool.close)
        return flask_app(chat, pool, settings.max_body_bytes)

    def close(self) -> None:
        """End everything."""
        self._opened.close()
