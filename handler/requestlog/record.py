"""One row of the request log as it is made, kept on disk and read back. Knows no spool, no SQL, no asyncio.

On disk a record is a line of JSON, an object by column name without what is absent: what the spool has is what
PostgreSQL is sent, and nobody looks at it again on the way. Text that PostgreSQL cannot hold survives visibly: each
lone surrogate (no UTF-8 form) and each NUL (no `text` or `jsonb` form) becomes U+FFFD, the replacement character. Any
thread may call what is here.
"""

from __future__ import annotations

import datetime as dt
import enum
import os
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from handler.errors import SpoolError

REPLACEMENT = "\ufffd"
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


class Status(enum.StrEnum):
    """How a request ended, as the operator counts it."""

    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    TIMEOUT = "timeout"


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request, in the columns of table `request_logs`. What did not happen is None, never 0.

    By position it is made in a third of the time that names take; whoever makes one for each request may do so.

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

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)

# `uuid.UUID(int=...)` without its checks of what cannot be wrong in `new_id`: they take longer than all the rest.
_new, _set = object.__new__, object.__setattr__
_UUID, _UNKNOWN_SAFETY = uuid.UUID, uuid.SafeUUID.unknown


def new_id(randomness: bytes | None = None) -> uuid.UUID:
    """A UUID version 7 (RFC 9562): later ids sort after earlier ones of the same process, unless its clock is set back.

    `randomness` are 8 bytes from the kernel that nothing else was made of; without them it is asked for some.

    The twelve bits behind the milliseconds are their fraction (section 6.2, method 3), to a quarter of a microsecond.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    clock = milliseconds << 16 | 7 << 12 | nanoseconds * 4096 // 1_000_000
    made = _new(_UUID)
    _set(made, "int", clock << 64 | 2 << 62 | int.from_bytes(randomness or os.urandom(8)) >> 2)
    _set(made, "is_safe", _UNKNOWN_SAFETY)
    return made


def encode(records: Sequence[Record]) -> bytes:
    """A line for each record, the line end included.

    Raises:
        SpoolError: `metadata` or `prompt` of one of them holds something that is not JSON.
    """
    try:
        lines = _encoder.encode_lines(records)
        # Most lines have no backslash, which is found out faster than that they do not have these six bytes.
        if b"\\" not in lines or b"\\u0000" not in lines:
            return lines
    except (UnicodeEncodeError, TypeError, RecursionError):
        pass
    return b"".join(map(_encode_visibly, records))


def decode(line: bytes) -> Record:
    """The record of a line that `encode` made, by this version or another: columns that are unknown are left out.

    Raises:
        SpoolError: it is not a record.
    """
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SpoolError(f"not a record: {error}") from error


def _encode_visibly(record: Record) -> bytes:
    """The line of a record whose text may be no text for PostgreSQL."""
    try:
        return _encoder.encode(_visible(msgspec.to_builtins(record))) + b"\n"
    except (TypeError, RecursionError) as error:
        raise SpoolError(f"record {record.id} cannot be encoded: {error}") from error


def _visible(value: Any) -> Any:
    """`value` with what PostgreSQL cannot hold replaced in each string in it, keys included."""
    if isinstance(value, str):
        return _NOT_TEXT.sub(REPLACEMENT, value)
    if isinstance(value, dict):
        return {_visible(key): _visible(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_visible(item) for item in value]
    return value
