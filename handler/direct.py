"""The door, where everybody without a key stops, and behind it the short way to the endpoints that most requests take.

That is one look into a table instead of a walk through the router.

Starlette's router matches the path twice and wraps every message of a response in two more coroutines. That is as much
work as answering a small request, and a part of it comes again with each event of a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from handler.auth import Authenticator
from handler.errors import ClientDisconnectedError, PilotlightError, StoppingError
from handler.interruption import MayStop, given_up
from handler.trace import trace_of


class DirectPaths:
    """Lets in who may call, answers POST to the paths of a table, and passes everything else on.

    Args:
        app: the router, which knows these paths as well, and refuses other methods.
        endpoints: by path.
        authenticator: knows the keys.
        on_error: makes the response of an error, where none has begun.
        server: that answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        endpoints: Mapping[str, ASGIApp],
        authenticator: Authenticator,
        on_error: Callable[[Request, Exception], Awaitable[Response]],
        server: MayStop,
    ) -> None:
        self._app = app
        self._endpoints = endpoints
        self._authenticator = authenticator
        self._on_error = on_error
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on. A defect is answered and raised, as Starlette does it, for the server to report."""
        if scope["type"] != "http":
            app = self._app if scope["type"] == "lifespan" else WebSocketClose()  # no endpoint speaks anything else
            await app(scope, receive, send)
            return
        endpoint = self._endpoints.get(scope["path"]) if scope["method"] == "POST" else None
        if endpoint is None:  # Starlette's patterns would let a line's end pass for the path without it
            endpoint = _nothing if scope["path"].endswith("\n") else self._app
        try:
            self._authenticator.admit(scope)
            await endpoint(scope, receive, send)
        except ClientDisconnectedError:
            raise
        except asyncio.CancelledError:  # before the request's body was complete
            if not self._server.is_stopping:
                raise given_up() from None
            if trace_of(scope).http_status is not None:
                raise
            stopping = StoppingError("The server stopped before the request was complete", 1.0)
            await self._answer(stopping, scope, receive, send)
        except Exception as error:
            if trace_of(scope).http_status is not None:
                raise
            await self._answer(error, scope, receive, send)
            if not isinstance(error, PilotlightError | HTTPException):
                raise

    async def _answer(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._on_error(Request(scope), error)
        await response(scope, receive, send)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404)
