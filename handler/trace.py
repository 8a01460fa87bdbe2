"""What is known of one HTTP request while it runs. Event loop only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

import msgspec
import orjson
from starlette.exceptions import HTTPException
from starlette.types import Scope

from handler.errors import (
    AuthenticationError,
    ClientDisconnectedError,
    DeadlineExceededError,
    PilotlightError,
    RequestTimeoutError,
    UnavailableError,
    shortened,
)
from handler.rate_limits.allowance import Allowance
from handler.requestlog.facts import Facts
from handler.requestlog.record import Status

_LONGEST_NAME = 256
"""Of what a client named and need not exist: a path, a model."""


class RequestTrace(Facts):
    """What is known of one request so far: the facts of its record. The handlers fill it in; absence is None."""

    salt: str = msgspec.field(default_factory=lambda: os.urandom(8).hex()[1:])
    created_s: float = msgspec.field(default_factory=time.time)
    start_s: float = msgspec.field(default_factory=time.monotonic)
    allowance: Allowance | None = None
    error: BaseException | None = None

    @property
    def num_used_tokens(self) -> int:
        """Of prompt and completions, so far."""
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)

    def fail(self, error: BaseException) -> None:
        """Note why the request did not end well, and what that makes it; the first reason stays, or a good end."""
        if self.error is None and self.end_s is None:
            self.error = error
            self.error_type = type(error).__name__
            self.error_message = _message_of(error)
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

    def seal(self, instance_id: str) -> None:
        """Nothing more will be noted: become what the spool is to keep, and nothing else."""
        self.instance_id = instance_id
        self.allowance = self.error = None
        if len(self.endpoint) > _LONGEST_NAME:
            self.endpoint = shortened(self.endpoint, _LONGEST_NAME)
        if self.model_name is not None and len(self.model_name) > _LONGEST_NAME:
            self.model_name = shortened(self.model_name, _LONGEST_NAME)


def headers(scope: Scope) -> dict[bytes, bytes]:
    """By their names, which are in small letters; of several with one name the first."""
    known: dict[bytes, bytes] | None = scope.get("pilotlight.headers")
    if known is None:
        known = scope["pilotlight.headers"] = dict(reversed([*scope["headers"]]))
    return known


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name, which is in small letters; None where there is none."""
    value = headers(scope).get(name)
    return None if value is None else value.decode("latin-1")


def trace_of(scope: Scope) -> RequestTrace:
    """The trace that `TracingMiddleware` made for this request."""
    trace: RequestTrace = scope["pilotlight.trace"]
    return trace


def _message_of(error: BaseException) -> str | None:
    """What a row says of an error; nothing of a defect, whose text may hold anything, a prompt as well."""
    return str(error) if isinstance(error, PilotlightError | HTTPException) else None


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
    if isinstance(error, DeadlineExceededError | RequestTimeoutError):
        return Status.TIMEOUT
    if isinstance(error, ClientDisconnectedError):
        return Status.CANCELLED
    return Status.ERROR
