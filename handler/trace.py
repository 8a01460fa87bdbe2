"""What is known of one HTTP request while it runs, and the record that becomes of it. Event loop only."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from starlette.types import Scope

from handler.errors import (
    AuthenticationError,
    ClientDisconnectedError,
    DeadlineExceededError,
    UnavailableError,
)
from handler.requestlog.record import Record, Status, new_id


class RequestTrace:
    """What is known of one request so far. The handlers fill it in; absence is None."""

    model_name: str | None = None
    api_key_id: str | None = None
    stream: bool | None = None
    http_status: int | None = None
    status: Status | None = None
    finish_reason: str | None = None
    error: BaseException | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    metadata: dict[str, Any] | None = None
    prompt: Any = None
    completion: str | None = None

    def __init__(
        self, request_id: str, endpoint: str, *, cold_start: bool, record_randomness: bytes | None = None
    ) -> None:
        self.request_id = request_id
        self.endpoint = endpoint
        self.cold_start = cold_start
        self.record_randomness = record_randomness
        self.created_s = time.time()
        self.start_s = time.monotonic()

    @property
    def created_at(self) -> dt.datetime:
        """When the request arrived, in UTC."""
        return dt.datetime.fromtimestamp(self.created_s, dt.UTC)

    def fail(self, error: BaseException) -> None:
        """Note why the request did not end well, and what that makes it; the first reason stays."""
        if self.error is None:
            self.error = error
            self.status = _status_of(error)
            if self.status is Status.REJECTED and self.http_status is not None:
                self.status = Status.ERROR  # cut off after its answer had begun

    def add_up(self, parts: Sequence[RequestTrace]) -> None:
        """Take in what the parts of this request used and made; how they failed is for the caller to judge."""
        first = parts[0]
        self.model_name, self.stream, self.finish_reason = first.model_name, first.stream, first.finish_reason
        self.metadata = first.metadata
        self.prompt_tokens = _sum(part.prompt_tokens for part in parts)
        self.cached_tokens = _sum(part.cached_tokens for part in parts)
        self.completion_tokens = _sum(part.completion_tokens for part in parts)
        self.first_scheduled_s = min((part.first_scheduled_s for part in parts if part.first_scheduled_s), default=None)
        self.first_token_s = min((part.first_token_s for part in parts if part.first_token_s), default=None)
        if any(part.completion is not None for part in parts):
            self.prompt = [part.prompt for part in parts]
            self.completion = orjson.dumps([part.completion for part in parts]).decode()

    def to_record(self, instance_id: str) -> Record:
        """The row of this request, as of now."""
        total = None
        if self.prompt_tokens is not None and self.completion_tokens is not None:
            total = self.prompt_tokens + self.completion_tokens
        return Record(
            id=new_id(self.record_randomness),
            request_id=self.request_id,
            created_at=self.created_at,
            endpoint=self.endpoint,
            model_name=self.model_name,
            api_key_id=self.api_key_id,
            stream=self.stream,
            status=self.status or Status.SUCCESS,
            http_status=self.http_status,
            finish_reason=self.finish_reason,
            error_type=None if self.error is None else type(self.error).__name__,
            error_message=None if self.error is None else str(self.error),
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=total,
            queue_ms=self._ms_since_start(self.first_scheduled_s),
            ttft_ms=self._ms_since_start(self.first_token_s),
            duration_ms=(time.monotonic() - self.start_s) * 1000,
            cold_start=self.cold_start,
            instance_id=instance_id,
            metadata=self.metadata,
            prompt=self.prompt,
            completion=self.completion,
        )

    def _ms_since_start(self, moment_s: float | None) -> float | None:
        return None if moment_s is None else (moment_s - self.start_s) * 1000


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name, which is in small letters; None where there is none."""
    known: dict[bytes, bytes] | None = scope.get("pilotlight.headers")
    if known is None:
        known = scope["pilotlight.headers"] = dict(reversed([*scope["headers"]]))
    value = known.get(name)
    return None if value is None else value.decode("latin-1")


def trace_of(scope: Scope) -> RequestTrace:
    """The trace that `TracingMiddleware` made for this request."""
    trace: RequestTrace = scope["pilotlight.trace"]
    return trace


def forget_frames(error: BaseException | None) -> None:
    """Cut an error that was handled from the frames that it came through, for most of them know it in turn.

    All that a request had, its tokens and its connection, would otherwise wait for the collector of cycles.
    """
    while error is not None:
        behind = error.__cause__ or error.__context__  # which may be the error itself
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = behind


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _status_of(error: BaseException) -> Status:
    if isinstance(error, UnavailableError | AuthenticationError):
        return Status.REJECTED
    if isinstance(error, DeadlineExceededError):
        return Status.TIMEOUT
    if isinstance(error, ClientDisconnectedError):
        return Status.CANCELLED
    return Status.ERROR
