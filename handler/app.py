"""The ASGI application put together: what lives as long as it does, and what stands around its routes.

Knows no endpoint: `routes` has them, and `error_responses` what becomes of their errors.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from handler.auth import Authenticator
from handler.boot import BootTimeline
from handler.boots import boot_record
from handler.direct import DirectPaths
from handler.error_responses import ERROR_HANDLERS, on_error
from handler.errors import SpoolError
from handler.limited import RateLimited
from handler.metrics import Metrics
from handler.rate_limits.allowance import RATE_LIMIT_HEADERS, RateLimits
from handler.requestlog.sink import LogSink
from handler.routes import paths_of, routes_of
from handler.service import ServesModel, Service
from handler.settings import Settings
from handler.tracing import TracingMiddleware
from handler.watchdog import Watchdog

logger = logging.getLogger(__name__)

_FLUSH_TIMEOUT_S = 5.0
_ENGINE_STOP_TIMEOUT_S = 10.0


def create_app(
    settings: Settings,
    engine: ServesModel,
    sink: LogSink,
    timeline: BootTimeline,
    *,
    on_ready: Callable[[Service], None] = lambda _: None,
    on_lost: Callable[[], None] = lambda: None,
) -> Starlette:
    """The function as an ASGI application; its lifespan boots and stops engine and request log.

    `on_ready` is called when the engine's boot has ended, well or not, and `on_lost` when no device is left later. The
    `Service` is in `app.state.service`.
    """
    metrics = Metrics(engine.snapshot.name)
    service = Service(settings, engine, timeline, metrics)
    metrics.watch(lambda: engine.stats, lambda: engine.devices, sink, timeline)

    instance_id = uuid.uuid4().hex[:12]

    def on_boot() -> None:
        try:
            sink.submit(boot_record(service, instance_id))
        except SpoolError as error:
            logger.error("boot not recorded: %s", error)  # noqa: TRY400  (a full disk is no defect of ours)
        on_ready(service)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start(lambda _: on_boot())
        watching = asyncio.create_task(Watchdog(service, settings.step_timeout, on_lost).run())
        await sink.start()
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.to_thread(engine.stop, _ENGINE_STOP_TIMEOUT_S)
            await sink.close(_FLUSH_TIMEOUT_S)
            if limits is not None:
                await limits.close()

    limits = _rate_limits(settings, engine.snapshot.name, metrics)
    authenticator = Authenticator(settings.api_keys, settings.keyless_paths)
    routes, direct = _routes(service, engine, authenticator)
    if limits is not None:
        direct = {path: RateLimited(endpoint, limits) for path, endpoint in direct.items()}
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers=ERROR_HANDLERS,
    )
    # Put together here, because Starlette would put its own handling of errors around all of it: a coroutine more for
    # every message of every response.
    app.middleware_stack = TracingMiddleware(
        _with_cors(
            DirectPaths(
                _routed(app),
                endpoints=direct,
                authenticator=authenticator,
                on_error=on_error,
                server=service.admission,
            ),
            settings,
        ),
        metrics=metrics,
        submit=sink.submit,
        posted=frozenset(paths_of(routes, "POST")),
        endpoints=frozenset(paths_of(routes)),
        is_cold=lambda: not service.admission.is_ready,
        instance_id=instance_id,
    )
    app.router.redirect_slashes = False  # a wrong path is an error with a body, not a redirect to another scheme
    app.state.service = service
    return app


def stack_of(app: Starlette) -> ASGIApp:
    """What the application hands everything on to: for a server that can spare each request a coroutine."""
    return app.middleware_stack or app


def _routed(app: Starlette) -> ASGIApp:
    """The router with what Starlette has around it, called as `app` would call it."""
    stack = app.build_middleware_stack()

    def call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["app"] = app
        return stack(scope, receive, send)

    return call


def _routes(
    service: Service, engine: ServesModel, authenticator: Authenticator
) -> tuple[list[BaseRoute], dict[str, ASGIApp]]:
    if service.settings.engine_url is None:
        return routes_of(service, authenticator)
    from handler.upstream.engine import RemoteEngine  # noqa: PLC0415  (it needs an HTTP client, and nobody else does)
    from handler.upstream.routes import forwarding_routes  # noqa: PLC0415

    assert isinstance(engine, RemoteEngine), "whoever sets ENGINE_URL serves what stands there"
    return forwarding_routes(service, engine)


def _rate_limits(settings: Settings, model_name: str, metrics: Metrics) -> RateLimits | None:
    requests, tokens = settings.rate_limit_requests_per_minute, settings.rate_limit_tokens_per_minute
    if not requests and not tokens:
        return None
    from handler.rate_limits.counters import Counters  # noqa: PLC0415  (0.1 s that only those pay who set limits)

    counters = Counters(settings.redis_url, metrics.count_rate_limit_failures())
    return RateLimits(counters, model_name=model_name, requests_per_minute=requests, tokens_per_minute=tokens)


def _with_cors(app: ASGIApp, settings: Settings) -> ASGIApp:
    if not settings.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # OpenAI's client for JavaScript sends many of its own
        expose_headers=["x-request-id", "retry-after", *RATE_LIMIT_HEADERS],
    )
