"""The answer to what never becomes a request, in whole: no application sees it. Knows no connection."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from handler.errors import PilotlightError
from handler.http_errors import error_body, error_headers, http_error
from handler.schema.codec import encode_json


def refusal(error: PilotlightError) -> bytes:
    """Status line, headers and body. The connection ends with it."""
    body = encode_json(error_body(error))
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **error_headers(error),
    }
    lines = [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
    return b"".join([STATUS_LINE[http_error(error).status], *lines, b"\r\n", body])
