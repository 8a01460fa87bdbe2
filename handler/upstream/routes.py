"""Which path leads where when a remote server stands behind the function. Event loop only."""

from __future__ import annotations

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from handler.errors import UpstreamError
from handler.routes import state_routes
from handler.service import Service
from handler.upstream.endpoint import ForwardingEndpoint
from handler.upstream.engine import RemoteEngine

_USAGE_ON_REQUEST = ("/chat/completions", "/completions")
_OTHERS = ("/responses", "/embeddings")


def forwarding_routes(service: Service, engine: RemoteEngine) -> tuple[list[BaseRoute], dict[str, ASGIApp]]:
    """All routes, and by their whole paths those that `DirectPaths` takes the short way to."""
    engine.occupancy = service.admission.occupancy
    direct: dict[str, ASGIApp] = {
        f"/v1{path}": ForwardingEndpoint(service, engine, path, usage_on_request=path in _USAGE_ON_REQUEST)
        for path in (*_USAGE_ON_REQUEST, *_OTHERS)
    }

    async def models(request: Request) -> Response:
        path = request.url.path.removeprefix("/v1")
        try:
            answer = await engine.client.get(f"{engine.url}{path}")
        except httpx.HTTPError as error:
            raise UpstreamError(f"The model's server failed: {type(error).__name__}") from error
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))

    routes: list[BaseRoute] = [
        *(Route(path, endpoint, methods=["POST"]) for path, endpoint in direct.items()),
        Route("/v1/models", models),
        Route("/v1/models/{model:path}", models),
        *state_routes(service),
    ]
    return routes, direct
