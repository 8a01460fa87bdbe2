"""How every error that leaves an endpoint becomes a response, and what the request's trace and the log keep of it.

Which status an error has stands in `http_errors`. Knows no endpoint. Event loop only.
"""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from handler.errors import EngineError, PilotlightError, shortened
from handler.http_errors import ERROR_TABLE, INTERNAL_ERROR, error_body, error_headers, http_error
from handler.logs import FIELDS
from handler.schema.codec import encode_json
from handler.schema.errors import ErrorBody, ErrorDetail
from handler.trace import trace_of

logger = logging.getLogger(__name__)

_LONGEST_MESSAGE = 1000


async def on_error(request: Request, error: Exception) -> Response:
    """Answer what leaves an endpoint that no router calls."""
    if isinstance(error, HTTPException):
        return await _on_http_exception(request, error)
    handle = _on_pilotlight_error if isinstance(error, PilotlightError) else _on_unexpected_error
    return await handle(request, error)


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


ERROR_HANDLERS = {
    **dict.fromkeys(ERROR_TABLE, _on_pilotlight_error),
    HTTPException: _on_http_exception,
    Exception: _on_unexpected_error,
}
"""Whom the router calls for which error."""
