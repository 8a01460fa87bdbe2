"""What Django's views on WSGI and on ASGI write and read alike. Imports nothing that needs Django's settings."""

from __future__ import annotations

from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from pydantic import ValidationError

from bench.baselines.answers import STREAM_HEADERS, STREAM_TYPE
from bench.baselines.refusals import refusal
from bench.baselines.schema import ChatCompletion, ChatRequest
from handler.errors import PilotlightError
from handler.http_errors import error_body, error_headers, http_error
from handler.schema.codec import encode_json
from handler.trace import RequestTrace

_JSON = "application/json"


def json_response(value: Any, status: int = 200) -> HttpResponse:
    """Django's own `JsonResponse` encodes in Python, and several times as slowly."""
    return sized(orjson.dumps(value), _JSON, status)


def no_database() -> HttpResponse:
    """What `GET /database` answers where there is none."""
    return json_response({"error": {"message": "No database was configured"}}, 503)


def sized(content: bytes | str, kind: str, status: int = 200, headers: dict[str, str] | None = None) -> HttpResponse:
    """A response that says how long it is, as `CommonMiddleware` would make it; otherwise it would go in chunks."""
    response = HttpResponse(content, content_type=kind, status=status, headers=headers)
    response.headers["Content-Length"] = str(len(response.content))
    return response


def whole_response(trace: RequestTrace, answer: ChatCompletion) -> HttpResponse:
    """A chat.completion."""
    return sized(answer.model_dump_json(), _JSON, headers={"x-request-id": trace.request_id})


def stream_response(trace: RequestTrace, events: Any) -> StreamingHttpResponse:
    """Server-sent events, from an iterator on WSGI and an asynchronous one on ASGI."""
    headers = {"x-request-id": trace.request_id, **STREAM_HEADERS}
    return StreamingHttpResponse(events, content_type=STREAM_TYPE, headers=headers)


def error_response(trace: RequestTrace, error: PilotlightError) -> HttpResponse:
    """OpenAI's error body."""
    headers = {"x-request-id": trace.request_id, **error_headers(error)}
    return sized(encode_json(error_body(error)), _JSON, http_error(error).status, headers)


def read_body(request: HttpRequest) -> ChatRequest:
    """The body.

    Raises:
        InvalidRequestError: it breaks a rule.
    """
    try:
        return ChatRequest.model_validate_json(request.body)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False, include_input=False)) from error
