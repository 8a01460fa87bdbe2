"""The ASGI application: routes, lifespan, and the handlers through which every error becomes a response."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp

from handler.auth import Authenticator
from handler.boot import BootTimeline
from handler.completions import CompletionEndpoint
from handler.direct import DirectPaths
from handler.errors import EngineError, InvalidRequestError, NotStoredError, PilotlightError, shortened
from handler.formats.chat import ChatFormat
from handler.formats.responses import ResponsesFormat
from handler.formats.text import TextFormat
from handler.health import HealthEndpoints
from handler.http_errors import ERROR_TABLE, INTERNAL_ERROR, error_body, error_headers, http_error
from handler.invocations import InvocationsEndpoint
from handler.limited import RateLimited
from handler.logs import FIELDS
from handler.metrics import Metrics
from handler.openapi import DOCS_HEADERS, DOCS_PAGE, DocsFiles, describe_api
from handler.rate_limits.allowance import RATE_LIMIT_HEADERS, RateLimits
from handler.requestlog.sink import LogSink
from handler.schema.codec import encode_json
from handler.schema.errors import ErrorBody, ErrorDetail
from handler.schema.models import Model, ModelList
from handler.service import ServesModel, Service
from handler.settings import Settings
from handler.tokenization import DETOKENIZE, TOKENIZE, TokenizationEndpoint
from handler.trace import trace_of
from handler.tracing import TracingMiddleware
from handler.watchdog import Watchdog

logger = logging.getLogger(__name__)

_LONGEST_MESSAGE = 1000
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

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start(lambda _: on_ready(service))
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
    routes, direct = _routes(service, authenticator)
    if limits is not None:
        direct = {path: RateLimited(endpoint, limits) for path, endpoint in direct.items()}
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            **dict.fromkeys(ERROR_TABLE, _on_pilotlight_error),
            HTTPException: _on_http_exception,
            Exception: _on_unexpected_error,
        },
    )
    # Put together here, because Starlette would put its own handling of errors around all of it: a coroutine more for
    # every message of every response.
    app.middleware_stack = TracingMiddleware(
        _with_cors(
            DirectPaths(
                app.build_middleware_stack(), endpoints=direct, authenticator=authenticator, on_error=_on_error
            ),
            settings,
        ),
        metrics=metrics,
        submit=sink.submit,
        posted=frozenset(_paths(routes, "POST")),
        endpoints=frozenset(_paths(routes)),
        is_cold=lambda: not service.admission.is_ready,
        instance_id=uuid.uuid4().hex[:12],
    )
    app.router.redirect_slashes = False  # a wrong path is an error with a body, not a redirect to another scheme
    app.state.service = service
    return app


def _routes(service: Service, authenticator: Authenticator) -> tuple[list[BaseRoute], dict[str, ASGIApp]]:
    """All routes, and by their whole paths those that `DirectPaths` takes the short way to."""
    settings, health = service.settings, HealthEndpoints(service)
    name = service.engine.snapshot.name

    @functools.cache
    def description() -> bytes:
        """Made for the first who asks: it takes longer than a boot can spare."""
        return orjson.dumps(describe_api(name, authenticator.needs_key, with_metrics=settings.enable_metrics))

    async def models(_: Request) -> Response:
        return Response(encode_json(ModelList([await _model(service)])), media_type="application/json")

    async def model(request: Request) -> Response:
        service.check_model_name(request.path_params["model"])
        return Response(encode_json(await _model(service)), media_type="application/json")

    async def embeddings(_: Request) -> Response:
        # Not a 404, which reads like a wrong base_url: the path is right, this model is not made for it.
        raise InvalidRequestError(f"The model {name!r} generates text; it makes no embeddings", "model")

    async def stored_response(request: Request) -> Response:
        raise NotStoredError(
            f"The response {request.path_params['id']!r} is not stored here, nor is any other: "
            "send the conversation's earlier items in `input`"
        )

    async def openapi(_: Request) -> Response:
        return Response(await run_in_threadpool(description), media_type="application/json")

    async def docs(_: Request) -> Response:
        return HTMLResponse(DOCS_PAGE, headers=DOCS_HEADERS)

    chat = CompletionEndpoint(service, ChatFormat())
    text = CompletionEndpoint(service, TextFormat())
    tokenize, detokenize = TokenizationEndpoint(service, TOKENIZE), TokenizationEndpoint(service, DETOKENIZE)
    responses = CompletionEndpoint(service, ResponsesFormat())
    invocations = InvocationsEndpoint(service, {"messages": chat, "prompt": text, "input": responses})
    api = [
        Route("/chat/completions", chat, methods=["POST"]),
        Route("/completions", text, methods=["POST"]),
        Route("/responses", responses, methods=["POST"]),
        Route("/responses/{id}", stored_response, methods=["GET", "DELETE"]),
        Route("/responses/{id}/cancel", stored_response, methods=["POST"]),
        Route("/responses/{id}/input_items", stored_response),
        Route("/embeddings", embeddings, methods=["POST"]),
        Route("/models", models),
        Route("/models/{model:path}", model),
    ]
    direct: dict[str, ASGIApp] = {
        "/v1/chat/completions": chat,
        "/v1/completions": text,
        "/v1/responses": responses,
        "/tokenize": tokenize,
        "/detokenize": detokenize,
        "/invocations": invocations,
    }
    routes: list[BaseRoute] = [
        Mount("/v1", app=Router(api, redirect_slashes=False)),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/invocations", invocations, methods=["POST"]),
        Route("/version", health.version),
        Route("/ping", health.ping),
        Route("/health", health.health),
        Route("/ready", health.ready),
        Route("/startup", health.startup),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
        Mount("/docs/static", DocsFiles()),
    ]
    if settings.enable_metrics:
        routes.append(Route("/metrics", health.metrics))
    return routes, direct


def _rate_limits(settings: Settings, model_name: str, metrics: Metrics) -> RateLimits | None:
    requests, tokens = settings.rate_limit_requests_per_minute, settings.rate_limit_tokens_per_minute
    if not requests and not tokens:
        return None
    from handler.rate_limits.counters import Counters  # noqa: PLC0415  (0.1 s that only those pay who set limits)

    counters = Counters(settings.redis_url, metrics.count_rate_limit_failures())
    return RateLimits(counters, model_name=model_name, requests_per_minute=requests, tokens_per_minute=tokens)


async def _model(service: Service) -> Model:
    model = await service.model()
    created = int(dt.datetime.fromisoformat(service.engine.snapshot.manifest.created_at).timestamp())
    return Model(id=model.info.name, created=created, max_model_len=model.info.max_model_len)


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


def _paths(routes: list[BaseRoute], method: str | None = None) -> list[str]:
    """The paths of all routes, or of those that take the method."""
    paths = []
    for route in routes:
        if isinstance(route, Mount):
            paths += [route.path + path for path in _paths(list(route.routes), method)]
        elif isinstance(route, Route) and (method is None or method in (route.methods or ())):
            paths.append(route.path)
    return paths


async def _on_pilotlight_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PilotlightError)
    trace_of(request.scope).fail(error)
    body = encode_json(error_body(error))
    return Response(body, http_error(error).status, error_headers(error), "application/json")


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods, which Starlette's router finds."""
    assert isinstance(error, HTTPException)
    trace_of(request.scope).fail(error)
    message = shortened(f"{error.detail}: {request.method} {request.scope['path']}", _LONGEST_MESSAGE)
    body = encode_json(ErrorBody(ErrorDetail(message, "invalid_request_error")))
    return Response(body, error.status_code, error.headers, "application/json")


async def _on_unexpected_error(request: Request, error: Exception) -> Response:
    """A defect: its text may hold anything, so the client learns only that it happened."""
    trace = trace_of(request.scope)
    trace.fail(error)
    logger.error("unexpected error", exc_info=error, extra={FIELDS: {"request_id": trace.request_id}})
    body = encode_json(error_body(EngineError("The server made an error")))
    return Response(body, INTERNAL_ERROR.status, media_type="application/json")


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return await _on_http_exception(request, error)
    handle = _on_pilotlight_error if isinstance(error, PilotlightError) else _on_unexpected_error
    return await handle(request, error)
