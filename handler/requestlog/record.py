"""One row of the request log. Knows no spool, no SQL, no asyncio. Any thread may call what is here."""

from __future__ import annotations

import datetime as dt
import enum
import os
import time
import uuid
from typing import Any

import msgspec


class Status(enum.StrEnum):
    """How a request ended, as the operator counts it."""

    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    TIMEOUT = "timeout"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request, in the columns of table `request_logs`. What did not happen is None, never 0.

    Attributes:
        id: version 7, made by `new_id`; the primary key that makes writing a record twice harmless.
        request_id: the `x-request-id` of the response.
        created_at: when the request arrived, with a time zone.
        endpoint: the path, such as `/v1/chat/completions`.
        model_name: as the request named it.
        api_key_id: the name of the key, never the key.
        stream: whether the answer was streamed.
        status: how it ended.
        http_status: the status line sent; 499 where the client left before one was.
        finish_reason: of the first choice, as the answer has it; a response's as a chat's would be.
        error_type: the class of the error, as `handler.errors` names it.
        error_message: its text.
        prompt_tokens: tokens of the prompt.
        cached_tokens: those of them found in the prefix cache.
        completion_tokens: tokens generated.
        total_tokens: prompt and completion together.
        queue_ms: from arrival until the engine first worked on it.
        ttft_ms: from arrival until the first token was handed to the server.
        duration_ms: from arrival until the last byte.
        cold_start: the request waited for the boot of this instance.
        instance_id: which instance answered.
        metadata: what the client attached.
        prompt: messages, text or token ids; kept only with LOG_PROMPTS=1.
        completion: the generated text; kept only with LOG_PROMPTS=1.
    """

    id: uuid.UUID
    request_id: str
    created_at: dt.datetime
    endpoint: str
    status: Status
    model_name: str | None = None
    api_key_id: str | None = None
    stream: bool | None = None
    http_status: int | None = None
    finish_reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    queue_ms: float | None = None
    ttft_ms: float | None = None
    duration_ms: float | None = None
    cold_start: bool | None = None
    instance_id: str | None = None
    metadata: dict[str, Any] | None = None
    prompt: Any = None
    completion: str | None = None


COLUMNS: tuple[str, ...] = Record.__struct_fields__


def new_id() -> uuid.UUID:
    """A UUID version 7 (RFC 9562): later ids sort after earlier ones of the same process, unless its clock is set back.

    The twelve bits behind the milliseconds are their fraction (section 6.2, method 3), to a quarter of a microsecond.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    clock = milliseconds << 80 | 7 << 76 | (nanoseconds * 4096 // 1_000_000) << 64
    return uuid.UUID(int=clock | 2 << 62 | int.from_bytes(os.urandom(8)) >> 2)
