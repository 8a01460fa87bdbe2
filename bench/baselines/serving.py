"""One stack in a process of its own: `python -m bench.baselines.serving SPEC_JSON`. Serves until SIGTERM.

uvicorn is set up alike for all who run on it, with uvloop and httptools; only the function brings its own protocol and
what its own `serve` does to the garbage collector, which are parts of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
from starlette.types import ASGIApp

from bench.baselines.backend import engine_of, settings_of, sink_of
from bench.baselines.plan import StackSpec
from handler.boot import BootTimeline
from handler.descriptors import raise_descriptor_limit
from handler.logs import configure_logging
from handler.settings import Settings

_KEEP_ALIVE_S = 75


def main() -> None:
    """Serve until SIGTERM."""
    spec = msgspec.json.decode(sys.argv[1], type=StackSpec)
    if spec.core is not None:
        os.sched_setaffinity(0, {spec.core})
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as `pilotlight serve` does, before torch is loaded
    raise_descriptor_limit()
    settings = settings_of(spec)
    with (Path(spec.directory) / "log").open("w", encoding="utf-8") as log:
        configure_logging("warning", log)  # nobody writes a line for each request here
        if spec.stack in {"flask", "django"}:
            _serve_wsgi(spec, settings)
        elif spec.stack == "pilotlight":
            _serve_pilotlight(spec, settings)
        else:
            _serve_asgi(_asgi_app(spec, settings), settings)


def _serve_asgi(app: ASGIApp, settings: Settings) -> None:
    import uvicorn  # noqa: PLC0415  (each process imports what it serves, and no more: its memory is measured)

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    uvicorn.Server(config).run()


def _serve_wsgi(spec: StackSpec, settings: Settings) -> None:
    from bench.baselines.gunicorn_server import ThreadedServer  # noqa: PLC0415
    from bench.baselines.wsgi_app import WsgiStack  # noqa: PLC0415

    stack = WsgiStack(spec, settings)
    ThreadedServer(spec.port, spec.threads, stack.open, stack.close).run()


def _serve_pilotlight(spec: StackSpec, settings: Settings) -> None:
    import uvicorn  # noqa: PLC0415

    from bench.baselines.pilotlight_app import PlainWorkloads  # noqa: PLC0415
    from handler.app import create_app, stack_of  # noqa: PLC0415
    from handler.cli.listener import bind  # noqa: PLC0415
    from handler.cli.serve import calm_collector, uvicorn_config  # noqa: PLC0415

    timeline = BootTimeline()
    engine = engine_of(spec, settings, timeline)
    app = create_app(settings, engine, sink_of(settings), timeline, on_ready=lambda _: calm_collector())
    listener = bind(settings.host, settings.port)
    config = uvicorn_config(PlainWorkloads(stack_of(app), database_of(spec)), settings, listener)
    uvicorn.Server(config).run([listener])


def _asgi_app(spec: StackSpec, settings: Settings) -> ASGIApp:
    if spec.stack == "bare":
        from bench.baselines.bare import bare_app  # noqa: PLC0415

        return bare_app()
    engine, sink = engine_of(spec, settings, BootTimeline()), sink_of(settings)
    if spec.stack == "fastapi":
        from bench.baselines.fastapi_app import fastapi_app  # noqa: PLC0415

        return fastapi_app(settings, engine, sink, database_of(spec))
    from bench.baselines.async_chat import running  # noqa: PLC0415
    from bench.baselines.chat import Chat  # noqa: PLC0415
    from bench.baselines.django_asgi import django_asgi_app, with_lifespan  # noqa: PLC0415

    app = django_asgi_app(Chat(settings, engine, sink.submit), database_of(spec), settings.max_body_bytes)
    return with_lifespan(app, running(engine, sink))


def database_of(spec: StackSpec) -> str | None:
    """The URL, None where there is none."""
    return None if spec.database == "none" else spec.database


if __name__ == "__main__":
    main()
