"""The body of a request as it arrives. Event loop only."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope

from handler.errors import (
    BodyTooLargeError,
    ClientDisconnectedError,
    DeadlineExceededError,
    UnsupportedMediaTypeError,
)
from handler.settings import Settings
from handler.shortcut import beside
from handler.trace import headers

_JSON = b"application/json"


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole request body.

    Raises:
        UnsupportedMediaTypeError: declared as something other than JSON, or as compressed.
        BodyTooLargeError: announced or arriving larger than `max_bytes`.
        ClientDisconnectedError: the client left before the end.
    """
    known = headers(scope)
    declared = known.get(b"content-type")
    if declared is not None and declared != _JSON:
        media_type = declared.partition(b";")[0].strip().lower()
        if media_type != _JSON:
            raise UnsupportedMediaTypeError(f"The body must be {_shown(_JSON)}, not {_shown(media_type)}")
    encoding = known.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in {b"", b"identity"}:
        raise UnsupportedMediaTypeError(f"The body must come as it is, not encoded as {_shown(encoding)}")
    length = known.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    take_body = beside(receive, "take_body")
    body: bytes | None = None if take_body is None else take_body()
    if body is None:
        return await _read_parts(receive, max_bytes)
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


async def _read_parts(receive: Receive, max_bytes: int) -> bytes:
    """What is not here yet, or comes by messages."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError("the client left while sending its request")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return b"".join(parts)


async def read_body_in_time(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """The whole request body, for an endpoint that has not begun to count its time.

    Raises:
        DeadlineExceededError: it took longer than REQUEST_TIMEOUT; otherwise as `read_body`.
    """
    try:
        async with asyncio.timeout(settings.request_timeout):
            return await read_body(scope, receive, settings.max_body_bytes)
    except TimeoutError:
        raise DeadlineExceededError(f"The request took longer than {settings.request_timeout:g} s") from None


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {max_bytes} bytes")


def _shown(value: bytes) -> str:
    """Of a header."""
    return value.decode("latin-1")
