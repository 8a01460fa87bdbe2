"""The one table from domain errors to HTTP: status code and OpenAI's error type. Knows no request."""

from __future__ import annotations

import math

import msgspec

from handler.errors import (
    AuthenticationError,
    BodyTooLargeError,
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    EngineLostError,
    HeadTooLargeError,
    InvalidRequestError,
    NothingLeftError,
    NotStoredError,
    OverloadedError,
    PilotlightError,
    RateLimitError,
    RequestError,
    RequestTimeoutError,
    StartingError,
    StoppingError,
    UnavailableError,
    UnknownModelError,
    UnsupportedMediaTypeError,
    UpstreamError,
)
from handler.schema.errors import ErrorBody, ErrorDetail


class HttpError(msgspec.Struct, frozen=True):
    """How an error looks on the wire."""

    status: int
    type: str


ERROR_TABLE: dict[type[PilotlightError], HttpError] = {
    InvalidRequestError: HttpError(400, "invalid_request_error"),
    ContextLengthError: HttpError(400, "invalid_request_error"),
    UnknownModelError: HttpError(404, "invalid_request_error"),
    NotStoredError: HttpError(404, "invalid_request_error"),
    AuthenticationError: HttpError(401, "authentication_error"),
    BodyTooLargeError: HttpError(413, "invalid_request_error"),
    HeadTooLargeError: HttpError(431, "invalid_request_error"),
    RequestTimeoutError: HttpError(408, "timeout_error"),
    UnsupportedMediaTypeError: HttpError(415, "invalid_request_error"),
    OverloadedError: HttpError(429, "rate_limit_error"),
    RateLimitError: HttpError(429, "rate_limit_error"),
    StartingError: HttpError(503, "service_unavailable_error"),
    StoppingError: HttpError(503, "service_unavailable_error"),
    DeadlineExceededError: HttpError(504, "timeout_error"),
    EngineError: HttpError(500, "server_error"),
    NothingLeftError: HttpError(400, "invalid_request_error"),
    EngineLostError: HttpError(503, "service_unavailable_error"),
    UpstreamError: HttpError(502, "server_error"),
}

INTERNAL_ERROR = HttpError(500, "server_error")


def http_error(error: PilotlightError) -> HttpError:
    """The entry of an error's own class, and of no other."""
    return ERROR_TABLE.get(type(error), INTERNAL_ERROR)


def error_body(error: PilotlightError) -> ErrorBody:
    """OpenAI's error body."""
    return ErrorBody(error_detail(error))


def error_detail(error: PilotlightError) -> ErrorDetail:
    """The error as it stands in a body, or in a choice that failed while others did not."""
    param = error.param if isinstance(error, RequestError) else None
    code = error.code if isinstance(error, RequestError | UnavailableError | EngineLostError | UpstreamError) else None
    return ErrorDetail(str(error), http_error(error).type, param, code)


def error_headers(error: PilotlightError) -> dict[str, str]:
    """Headers that go with the error: when to come back, how to authenticate."""
    if isinstance(error, UnavailableError | EngineLostError | UpstreamError) and error.retry_after_s is not None:
        return {"retry-after": str(math.ceil(error.retry_after_s))}
    if isinstance(error, AuthenticationError):
        return {"www-authenticate": "Bearer"}
    return {}
