"""`pilotlight serve`: puts the parts together and runs them under uvicorn."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

import handler
from handler.app import create_app, stack_of
from handler.boot import BootTimeline
from handler.cli.announcement import announce
from handler.cli.idleness import Idleness
from handler.cli.listener import bind, inherited, listener_address
from handler.cli.server import EXIT_GOOD, EXIT_LOST, LOST_GRACE_S, DrainingServer, exit_code
from handler.descriptors import max_connections, raise_descriptor_limit
from handler.engine.options import EngineOptions
from handler.engine.pool import EnginePool
from handler.engine.snapshot import Snapshot, find_snapshot
from handler.errors import ConfigurationError, SnapshotError, SnapshotNotFoundError
from handler.logs import FIELDS, configure_logging
from handler.protocol import Limits, gathering_protocol
from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.shipper import Shipping
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from handler.service import ServesModel, Service
from handler.settings import Settings

STALL_TIMEOUT_S = 30.0
"""How long a client may read nothing of what waits for it."""

_COLLECTED_OBJECTS = 20_000

logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser("serve", help="answer requests", description="Answer requests until SIGTERM.")
    parser.add_argument("--host", help="address to listen on (HOST)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for any free one (PORT)")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Serve until a signal. The exit codes are those of `handler.cli.server`."""
    pause_collector()
    timeline = BootTimeline()
    # libgomp, which torch computes with, reads it when it is loaded. Threads that spin for long at each barrier keep
    # the core that the late one needs. On two cores with a busy neighbour this gave twice the tokens per second, and on
    # a quiet machine about 5 % fewer.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # torch says so once where there is none. Nothing here needs it, and an image without it starts sooner.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy", category=UserWarning)
    configure_logging(settings.log_level)
    raise_descriptor_limit()
    # Until uvicorn takes over. As the first process of a container we would not even be ended by it otherwise.
    signal.signal(signal.SIGTERM, _leave)
    with timeline.phase("bind"):
        listener = inherited(os.environ)
        if listener is None:
            listener = bind(args.host or settings.host, settings.port if args.port is None else args.port)
    return serve(settings, open_engine(settings, timeline), timeline, listener)


def open_engine(settings: Settings, timeline: BootTimeline) -> ServesModel:
    """The engines of the settings' model and devices, or the server that stands in their place.

    Raises:
        ConfigurationError: what it takes to reach that server is not installed.
        SnapshotError: the model could not be prepared.
    """
    if settings.engine_url is not None:
        try:
            from handler.upstream.engine import RemoteEngine  # noqa: PLC0415  (an HTTP client, which engines do not need)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "ENGINE_URL", f"{error.name} is missing: pip install 'pilotlight[proxy]'"
            ) from error
        return RemoteEngine(settings.engine_url, settings.engine_api_key, settings.model_name, timeline)
    with timeline.phase("snapshot"):
        snapshot = ensure_snapshot(settings)
    return EnginePool(snapshot, engine_options(settings), timeline)


def serve(
    settings: Settings,
    engine: ServesModel,
    timeline: BootTimeline,
    listener: socket.socket,
    *,
    lost_grace_s: float = LOST_GRACE_S,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> int:
    """Serve with this engine and the settings' request log; the exit code."""
    sink, embedded = open_log(settings)
    address = listener_address(listener)
    watching: list[asyncio.Task[None]] = []

    def on_ready(service: Service) -> None:
        calm_collector()
        if service.boot_error is not None:
            server.should_exit = True
        elif not service.admission.is_stopping:
            announce(service, address)
            if settings.idle_timeout is not None:
                idleness = Idleness(service, settings.idle_timeout, server.end_when_idle)
                watching.append(asyncio.get_running_loop().create_task(idleness.run()))

    def on_lost() -> None:
        server.end_after_loss()

    app = create_app(settings, engine, sink, timeline, on_ready=on_ready, on_lost=on_lost)
    service: Service = app.state.service
    server = DrainingServer(
        uvicorn_config(app, settings, listener, stall_timeout_s), service, settings.drain_timeout, lost_grace_s
    )
    # Before uvicorn takes over, and again once it has given them back.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(_leave_as, service))
    try:
        server.run(sockets=[listener])
    finally:
        gc.unfreeze()
        if embedded is not None:
            embedded.stop()
    if service.is_lost:
        _leave_at_once(service)
    return exit_code(service)


def open_log(settings: Settings) -> tuple[LogSink, EmbeddedPostgres | None]:
    """The settings' request log, and the database that is to be stopped after it, where that is ours."""
    embedded = EmbeddedPostgres(settings.pilotlight_home) if settings.database_url is None else None
    database = None if settings.database_url == "none" else settings.database_url
    sink = LogSink(
        Spool(settings.spool_directory, max_bytes=settings.spool_max_bytes),
        database if embedded is None else embedded.url,
        shipping=Shipping(pool_size=settings.db_pool_size),
        spill_descriptor=None if settings.keeps_spool else 1,  # standard output
    )
    return sink, embedded


def engine_options(settings: Settings) -> EngineOptions:
    """The engine's part of the settings."""
    return EngineOptions(
        device=settings.model_device,
        dtype=settings.torch_dtype,
        quantization=settings.quantization,
        max_batch_size=settings.max_batch_size,
        max_model_len=settings.max_model_len,
        prefill_chunk_tokens=settings.prefill_chunk_tokens,
        kv_cache_fraction=settings.kv_cache_fraction,
        speculation_tokens=settings.speculation_tokens,
    )


def ensure_snapshot(settings: Settings) -> Snapshot:
    """The model's snapshot, prepared first if it never was.

    In a process of its own: what prepare imports has no place in a serving process. That process must find this very
    package and not a `handler.py` that happens to lie in the working directory, as it does on some platforms.
    """
    try:
        return find_snapshot(settings.model_name, settings.pilotlight_home)
    except SnapshotNotFoundError:
        logger.info("preparing %s for the first time", settings.model_name)
    command = [sys.executable, "-P", "-m", "handler", "prepare", settings.model_name]
    paths = [str(Path(handler.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PILOTLIGHT_HOME": str(settings.pilotlight_home),
    }
    # What it says is for people: our own standard output may be lines of JSON.
    if subprocess.run(command, env=environ, check=False, stdout=2).returncode != 0:  # noqa: S603  (our own command)
        raise SnapshotError(f"{settings.model_name} could not be prepared")
    return find_snapshot(settings.model_name, settings.pilotlight_home)


def pause_collector() -> None:
    """Collect no garbage until `calm_collector`.

    A boot makes hundreds of thousands of objects that stay. To walk through them again and again was a sixth of what
    importing torch took.
    """
    gc.disable()


def calm_collector() -> None:
    """Let garbage collection cost little from now on.

    What the boot has made stays for good: no collection needs to walk through all of it again. And requests leave no
    cycles behind, so there is little to be found: with Python's own threshold of 700 new objects the young ones would
    be searched with every fourth request.
    """
    gc.freeze()
    gc.set_threshold(_COLLECTED_OBJECTS, *gc.get_threshold()[1:])
    gc.enable()


def uvicorn_config(
    app: ASGIApp,
    settings: Settings,
    listener: socket.socket,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> uvicorn.Config:
    """Uvicorn with its fastest loop and parser, and without its own access log.

    Args:
        app: what is served.
        settings: of the function.
        listener: the socket that uvicorn will be given.
        stall_timeout_s: seconds that a client may read nothing while its answer waits for it.
    """
    limits = Limits(arrival_s=settings.body_timeout, stall_s=stall_timeout_s, connections=max_connections())
    return uvicorn.Config(
        stack_of(app) if isinstance(app, Starlette) else app,
        loop="uvloop",
        http=gathering_protocol(limits, listener),
        ws="none",
        proxy_headers=False,  # nothing here asks where a client sits
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
    )


def _leave_at_once(service: Service) -> NoReturn:
    """End the process without waiting for a thread that hangs, nor for a library that waits for a lost device.

    Everything else has stopped already, and its records are safe.
    """
    logger.error("exit code %d: the engine was lost: %s", EXIT_LOST, service.loss)
    logging.shutdown()
    os._exit(EXIT_LOST)


def _leave_as(service: Service, sig: int, _: FrameType | None) -> NoReturn:
    """Wait no longer for what ends by itself, as the embedded database does, and say the same as if we had waited."""
    logger.info("stopping", extra={FIELDS: {"signal": signal.Signals(sig).name}})
    if service.is_lost:
        _leave_at_once(service)
    raise SystemExit(exit_code(service))


def _leave(sig: int, _: FrameType | None) -> NoReturn:
    """Nothing has begun yet that would have to end."""
    logger.info("stopping", extra={FIELDS: {"signal": signal.Signals(sig).name}})
    raise SystemExit(EXIT_GOOD)
