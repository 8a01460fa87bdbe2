"""Server-sent events: frames built from pre-encoded parts, so that only what changes is encoded per event.

The format is that of the WHATWG's HTML standard, as OpenAI uses it: `data: JSON` and a blank line.
"""

from __future__ import annotations

from functools import cached_property

import msgspec
import orjson

from handler.schema.codec import encode_json
from handler.schema.errors import ErrorBody, ErrorDetail
from handler.schema.usage import Usage

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which clients skip."""
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx must not collect events
]

_NULL = b"null"


def event(payload: bytes) -> bytes:
    """One event with a JSON payload."""
    return b"data: " + payload + b"\n\n"


def error_event(body: ErrorBody) -> bytes:
    """An error in mid-stream."""
    return event(encode_json(body))


class ChunkFrames:
    """Frames of one streamed answer.

    Args:
        head: fields that all chunks share: id, object, created, model.
        content_key: where a choice's text stands: `b'"delta":{"content":'` or `b'"text":'`.
        content_end: what closes it.
        with_usage: whether every chunk names its usage, null until the last, as `include_usage` demands.
    """

    def __init__(self, head: dict[str, str | int], *, content_key: bytes, content_end: bytes, with_usage: bool) -> None:
        self._head = head
        self._content_key = content_key
        self._content_end = content_end
        self._tail = b'}],"usage":null}\n\n' if with_usage else b"}]}\n\n"
        self._text_end = content_end + b',"logprobs":null,"finish_reason":null' + self._tail
        self._text_starts: dict[int, bytes] = {}  # by choice

    @cached_property
    def _opening(self) -> bytes:
        """What all chunks begin with; an answer that is not streamed never asks for it."""
        return b"data: " + encode_json(self._head)[:-1] + b',"choices":['

    def text(self, index: int, text: str, logprobs: msgspec.Struct | None) -> bytes:
        """A chunk that adds text to choice `index`."""
        if logprobs is None:  # what most events are, and what most of their bytes say is known before
            start = self._text_starts.get(index)
            if start is None:
                start = self._text_starts[index] = self._start(index) + self._content_key
            return start + orjson.dumps(text) + self._text_end
        content = self._content_key + orjson.dumps(text) + self._content_end
        return self.choice(index, content, logprobs=logprobs)

    def choice(
        self,
        index: int,
        content: bytes,
        *,
        logprobs: msgspec.Struct | None = None,
        finish_reason: str | None = None,
        stop_reason: str | int | None = None,
        error: ErrorDetail | None = None,
    ) -> bytes:
        """A chunk with any content, given as JSON members."""
        encoded_logprobs = _NULL if logprobs is None else encode_json(logprobs)
        finish = _NULL if finish_reason is None else b'"%s"' % finish_reason.encode()
        if stop_reason is not None:
            finish += b',"stop_reason":' + orjson.dumps(stop_reason)
        if error is not None:
            finish += b',"error":' + encode_json(error)
        parts = (
            self._start(index),
            content,
            b',"logprobs":',
            encoded_logprobs,
            b',"finish_reason":',
            finish,
            self._tail,
        )
        return b"".join(parts)

    def usage(self, usage: Usage) -> bytes:
        """The chunk without choices that closes a stream with `include_usage`."""
        return self._opening + b'],"usage":' + encode_json(usage) + b"}\n\n"

    def _start(self, index: int) -> bytes:
        return self._opening + b'{"index":%d,' % index
