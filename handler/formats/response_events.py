"""The server-sent events of a streamed response, each numbered in the order of its writing.

The format is OpenAI's: `event: TYPE`, `data: JSON` and a blank line. The last event ends the stream, not `[DONE]`.
"""

from __future__ import annotations

from typing import Any

import orjson

from handler.schema.chat import ContentLogprob
from handler.schema.codec import encode_json
from handler.schema.errors import ErrorDetail
from handler.schema.response import OutputFunctionCall, OutputItem, OutputMessage, OutputText, Response

_EMPTY = b"[]"


class ResponseEvents:
    """Writes events of one stream. Items and parts are named by their place in the output."""

    def __init__(self) -> None:
        self._next_number = 0
        self._delta_start = b""
        self._delta_place = b""

    def response(self, kind: str, response: Response) -> bytes:
        """The response as of now: `created`, `in_progress`, `completed`, `incomplete` or `failed`."""
        return self._event(f"response.{kind}", {"response": response})

    def item_added(self, output_index: int, item: OutputItem) -> bytes:
        """An item begins; a message with its one part of text."""
        event = self._event("response.output_item.added", {"output_index": output_index, "item": item})
        if isinstance(item, OutputMessage):
            self._prepare_delta("response.output_text.delta", item.id, output_index, b',"content_index":0,"delta":')
            part = self._part(output_index, item.id, OutputText(text=""))
            return event + self._event("response.content_part.added", part)
        self._prepare_delta("response.function_call_arguments.delta", item.id, output_index, b',"delta":')
        return event

    def text_delta(self, text: str, logprobs: list[ContentLogprob] | None) -> bytes:
        """More text of the message that was added last."""
        encoded = _EMPTY if logprobs is None else encode_json(logprobs)
        return self._delta(text, b',"logprobs":' + encoded)

    def arguments_delta(self, arguments: str) -> bytes:
        """More arguments of the call that was added last."""
        return self._delta(arguments, b"")

    def item_done(self, output_index: int, item: OutputItem) -> bytes:
        """An item has ended, and whatever it is made of."""
        place = {"item_id": item.id, "output_index": output_index}
        if isinstance(item, OutputFunctionCall):
            inner = self._event(
                "response.function_call_arguments.done", place | {"arguments": item.arguments, "name": item.name}
            )
        else:
            (part,) = item.content
            ended = place | {"content_index": 0, "text": part.text, "logprobs": part.logprobs}
            inner = self._event("response.output_text.done", ended)
            inner += self._event("response.content_part.done", self._part(output_index, item.id, part))
        return inner + self._event("response.output_item.done", {"output_index": output_index, "item": item})

    def error(self, detail: ErrorDetail, code: str) -> bytes:
        """The stream ends early.

        OpenAI's reference has the members flat, its servers nest them, and its clients raise what is nested.
        """
        flat = {"code": code, "message": detail.message, "param": detail.param}
        return self._event("error", flat | {"error": detail})

    def _part(self, output_index: int, item_id: str, part: OutputText) -> dict[str, Any]:
        return {"item_id": item_id, "output_index": output_index, "content_index": 0, "part": part}

    def _prepare_delta(self, kind: str, item_id: str, output_index: int, rest: bytes) -> None:
        self._delta_start = f'event: {kind}\ndata: {{"type":"{kind}","sequence_number":'.encode()
        self._delta_place = b',"item_id":' + orjson.dumps(item_id) + b',"output_index":%d' % output_index + rest

    def _delta(self, text: str, rest: bytes) -> bytes:
        """One frame a token: only its number and its text are encoded."""
        number = self._next_number
        self._next_number += 1
        parts = (self._delta_start, b"%d" % number, self._delta_place, orjson.dumps(text), rest, b"}\n\n")
        return b"".join(parts)

    def _event(self, kind: str, members: dict[str, Any]) -> bytes:
        body = encode_json({"type": kind, "sequence_number": self._next_number} | members)
        self._next_number += 1
        return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"
