"""The body of a request as it arrives. Event loop only."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope

from handler.errors import (
    BodyTooLargeError,
    ClientDisconnectedError,
    DeadlineExceededError,
    UnsupportedMediaTypeError,
)
from handler.settings import Settings
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
        raise BodyTooLargeError(f"The body is larger than {max_bytes} bytes")
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False) and len(body) <= max_bytes:
        return body  # like most
    return await _read_on(message, receive, max_bytes)


async def _read_on(message: Message, receive: Receive, max_bytes: int) -> bytes:
    """What comes in several parts, of which this is the first."""
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError("the client left while sending its request")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise BodyTooLargeError(f"The body is larger than {max_bytes} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()


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


def _shown(value: bytes) -> str:
    """Of a header."""
    return value.decode("latin-1")
