"""How FastAPI, Flask and Django write an answer: a pydantic model for a whole one, a dictionary for each event.

The events are the function's to the byte. They are written with orjson and not through a pydantic model for each, as
some servers do it: that is several times as fast, so nobody is slowed down by it. Knows no framework.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from bench.baselines.schema import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    CompletionTokensDetails,
    PromptTokensDetails,
    Usage,
)
from handler.choice import Choice
from handler.engine.events import TokenEvent

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
STREAM_TYPE = "text/event-stream; charset=utf-8"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What every part of an answer repeats. `created` is in seconds since 1970."""

    request_id: str
    created: int
    model: str
    fingerprint: str
    prompt_tokens: int


def whole_answer(head: Head, choice: Choice) -> ChatCompletion:
    """A chat.completion; the choice has ended."""
    return ChatCompletion(
        id=f"chatcmpl-{head.request_id}",
        created=head.created,
        model=head.model,
        system_fingerprint=head.fingerprint,
        choices=[
            ChatChoice(
                index=0,
                message=AssistantMessage(content=choice.text),
                finish_reason=choice.reported_reason,
                stop_reason=choice.stop_reason,
            )
        ],
        usage=_usage(head, choice),
    )


class StreamedAnswer:
    """The events of one stream."""

    def __init__(self, head: Head, *, with_usage: bool) -> None:
        self._head = {
            "id": f"chatcmpl-{head.request_id}",
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
        }
        self._tail: dict[str, Any] = {"usage": None} if with_usage else {}
        self._usage_head = head
        self._with_usage = with_usage
        self._has_begun = False

    def events(self, choice: Choice, event: TokenEvent) -> bytes:
        """What one step adds to the choice, which has taken it in already."""
        written = b""
        if not self._has_begun:
            self._has_begun = True
            written = self._choice({"role": "assistant", "content": ""})
        if event.text:
            written += self._choice({"content": event.text})
        if event.finish_reason is not None:
            stop = {} if choice.stop_reason is None else {"stop_reason": choice.stop_reason}
            written += self._choice({}, finish_reason=choice.reported_reason, **stop)
        return written

    def closing(self, choice: Choice) -> bytes:
        """Usage where it was asked for, and the end."""
        if not self._with_usage:
            return DONE
        usage = _usage(self._usage_head, choice).model_dump()
        return _event({**self._head, "choices": [], "usage": usage}) + DONE

    def _choice(self, delta: dict[str, str], finish_reason: str | None = None, **more: str | int) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, **more}
        return _event({**self._head, "choices": [choice], **self._tail})


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def _usage(head: Head, choice: Choice) -> Usage:
    return Usage(
        prompt_tokens=head.prompt_tokens,
        completion_tokens=choice.completion_tokens,
        total_tokens=head.prompt_tokens + choice.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=choice.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(),
    )
