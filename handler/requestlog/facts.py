"""What a request leaves behind on the event loop: the facts that its record follows from. Any thread may call it.

With thousands of requests a second, making records would be the larger part of what the log costs. So facts are what
is spooled and sent, and the id, the moments and the sums of a row are worked out where it is written, by PostgreSQL
(`database.py`). `Facts.to_record` works them out here, for a person or a program that reads the spool; both come to
the same to the bit.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import msgspec

from handler.requestlog.record import Record, Status

CLOCK_PER_S = 4_096_000
"""An id counts time in 4096ths of a millisecond (RFC 9562, section 6.2, method 3)."""

_POSTGRES_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


class Facts(msgspec.Struct, omit_defaults=True):
    """One request. What did not happen is None; what has the name of a column of `request_logs` is that column.

    Attributes:
        salt: 15 random hexadecimal digits from the kernel, that nothing else was made of: the end of the record's id.
        created_s: when the request arrived, in seconds since 1970.
        start_s: the same moment of the monotonic clock, which the moments below were read from.
        end_s: when the last byte was handed to the server.
        first_scheduled_s: when the engine first worked on it.
        first_token_s: when the first token was handed to the server.
    """

    request_id: str
    endpoint: str
    salt: str
    created_s: float
    start_s: float
    end_s: float | None = None
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    status: Status | None = None
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
    cold_start: bool | None = None
    instance_id: str | None = None
    metadata: dict[str, Any] | None = None
    prompt: Any = None
    completion: str | None = None

    @property
    def id(self) -> uuid.UUID:
        """Version 7: of two requests of a process the one that arrived later has the later id."""
        milliseconds, fraction = divmod(int(self.created_s * CLOCK_PER_S), 4096)
        return uuid.UUID(f"{milliseconds:012x}7{fraction:03x}8{self.salt}")

    @property
    def created_at(self) -> dt.datetime:
        """When the request arrived, in UTC; rounded as PostgreSQL's `to_timestamp` does it."""
        since_epoch_us = round((self.created_s - _POSTGRES_EPOCH.timestamp()) * 1e6)
        return _POSTGRES_EPOCH + dt.timedelta(microseconds=since_epoch_us)

    @property
    def duration_ms(self) -> float | None:
        """From arrival until the last byte."""
        return self._ms_since_start(self.end_s)

    @property
    def ttft_ms(self) -> float | None:
        """From arrival until the first token was handed to the server."""
        return self._ms_since_start(self.first_token_s)

    def to_record(self) -> Record:
        """The row that PostgreSQL makes of these facts."""
        total_tokens = None
        if self.prompt_tokens is not None and self.completion_tokens is not None:
            total_tokens = self.prompt_tokens + self.completion_tokens
        return Record(
            id=self.id,
            request_id=self.request_id,
            created_at=self.created_at,
            endpoint=self.endpoint,
            status=self.status or Status.SUCCESS,
            model_name=self.model_name,
            api_key_id=self.api_key_id,
            stream=self.stream,
            http_status=self.http_status,
            finish_reason=self.finish_reason,
            error_type=self.error_type,
            error_message=self.error_message,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=total_tokens,
            queue_ms=self._ms_since_start(self.first_scheduled_s),
            ttft_ms=self.ttft_ms,
            duration_ms=self.duration_ms,
            cold_start=self.cold_start,
            instance_id=self.instance_id,
            metadata=self.metadata,
            prompt=self.prompt,
            completion=self.completion,
        )

    def _ms_since_start(self, moment_s: float | None) -> float | None:
        return None if moment_s is None else (moment_s - self.start_s) * 1000
