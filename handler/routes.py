"""Which path leads to which endpoint: for the router, for the short way past it, and as a list of all there are.

Owns the endpoints, and those that are too small for a module. Knows no middleware and no lifespan. Event loop only.
"""

from __future__ import annotations

import datetime as dt
import functools

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp

from handler.auth import Authenticator
from handler.completions import CompletionEndpoint
from handler.errors import InvalidRequestError, NotStoredError
from handler.formats.chat import ChatFormat
from handler.formats.responses import ResponsesFormat
from handler.formats.text import TextFormat
from handler.health import HealthEndpoints
from handler.invocations import InvocationsEndpoint
from handler.openapi import DOCS_HEADERS, DOCS_PAGE, DocsFiles, describe_api
from handler.schema.codec import encode_json
from handler.schema.models import Model, ModelList
from handler.service import Service
from handler.tokenization import DETOKENIZE, TOKENIZE, TokenizationEndpoint


def routes_of(service: Service, authenticator: Authenticator) -> tuple[list[BaseRoute], dict[str, ASGIApp]]:
    """All routes, and by their whole paths those that `DirectPaths` takes the short way to."""
    settings = service.settings
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
        *state_routes(service),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
        Mount("/docs/static", DocsFiles()),
    ]
    return routes, direct


def state_routes(service: Service) -> list[BaseRoute]:
    """What says how the function does."""
    health = HealthEndpoints(service)
    routes: list[BaseRoute] = [
        Route("/version", health.version),
        Route("/ping", health.ping),
        Route("/health", health.health),
        Route("/ready", health.ready),
        Route("/startup", health.startup),
    ]
    if service.settings.enable_metrics:
        routes.append(Route("/metrics", health.metrics))
    return routes


def paths_of(routes: list[BaseRoute], method: str | None = None) -> list[str]:
    """The paths of all routes, or of those that take the method."""
    paths = []
    for route in routes:
        if isinstance(route, Mount):
            paths += [route.path + path for path in paths_of(list(route.routes), method)]
        elif isinstance(route, Route) and (method is None or method in (route.methods or ())):
            paths.append(route.path)
    return paths


async def _model(service: Service) -> Model:
    model = (await service.when_served()).model
    created = int(dt.datetime.fromisoformat(service.engine.snapshot.manifest.created_at).timestamp())
    return Model(id=model.info.name, created=created, max_model_len=model.info.max_model_len)
