"""Follows each HTTP request from first byte to last: its id, its record, its metrics, its log line.

The record is handed over *before* the last byte of the response goes out, so that a response that a client has
received whole has its row. Event loop only.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler.errors import ClientDisconnectedError, PilotlightError, SpoolError
from handler.logs import FIELDS, log_entries
from handler.metrics import Metrics
from handler.outbox import BEFORE_WRITE
from handler.requestlog.facts import Facts
from handler.requestlog.record import Status
from handler.trace import RequestTrace, forget_frames, header

logger = logging.getLogger("handler.access")

_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that left before its response began


class KeepsRecords(Protocol):
    """Where records go."""

    def __call__(self, *entries: Facts) -> None:
        """Keep all of them, or raise SpoolError and keep none."""


class TracingMiddleware:
    """Gives every HTTP request a trace, and closes it before its last byte.

    Args:
        app: the application.
        metrics: counts every request.
        submit: takes the records of requests that do something: POST below `/v1/`, and to `posted`.
        posted: the other paths that take POST.
        endpoints: the known paths; any other is counted as `other`, so that labels stay few.
        is_cold: whether a request that arrives now waits for the boot.
        instance_id: names this process in the records.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        submit: KeepsRecords,
        posted: frozenset[str],
        endpoints: frozenset[str],
        is_cold: Callable[[], bool],
        instance_id: str,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._submit = submit
        self._posted = posted
        self._endpoints = endpoints
        self._is_cold = is_cold
        self._instance_id = instance_id
        self._held: list[RequestTrace] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Trace HTTP, pass anything else on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # From the kernel, and not from a generator in this process: snapshots of it may be resumed many times. At once
        # for both ids: each system call lets go of the interpreter, and the engine's thread may take it.
        randomness = os.urandom(24).hex()
        trace = RequestTrace(
            request_id=_given_id(scope) or randomness[:32],
            endpoint=scope["path"],
            salt=randomness[33:],
            cold_start=self._is_cold(),
        )
        scope["pilotlight.trace"] = trace
        is_logged = scope["method"] == "POST" and (scope["path"].startswith("/v1/") or scope["path"] in self._posted)
        closed = False

        def close() -> None:
            nonlocal closed
            if not closed:
                closed = True
                self._close(scope, trace, is_logged=is_logged)

        def send_traced(message: Message) -> Awaitable[None]:  # no coroutine of its own, which each message would pay
            if message["type"] == "http.response.start":
                trace.http_status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", trace.request_id.encode())]
                if trace.allowance is not None:
                    message["headers"] += trace.allowance.headers
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                close()
            return send(message)

        self._metrics.num_requests_active += 1
        try:
            await self._app(scope, receive, send_traced)
        except ClientDisconnectedError as error:
            trace.fail(error)  # nobody is left to answer, so this is handled
        except BaseException as error:
            trace.fail(error)
            trace.http_status = trace.http_status or 500
            raise
        finally:
            self._metrics.num_requests_active -= 1
            close()

    def _close(self, scope: Scope, trace: RequestTrace, *, is_logged: bool) -> None:
        trace.http_status = trace.http_status or _CLIENT_CLOSED_REQUEST
        trace.end_s = time.monotonic()
        endpoint = trace.endpoint if trace.endpoint in self._endpoints else "other"
        self._metrics.observe_request(trace, scope["method"], endpoint)
        if isinstance(trace.error, PilotlightError):
            forget_frames(trace.error)
        if not is_logged:
            return
        trace.seal(self._instance_id)
        self._keep(trace, scope)

    def _keep(self, trace: RequestTrace, scope: Scope) -> None:
        """Spool a request before the last byte; where the server gathers responses, with those of the others."""
        before_write = scope.get("extensions", {}).get(BEFORE_WRITE)
        if not self._held and before_write is not None:
            before_write(self._spool)
        self._held.append(trace)
        if before_write is None:
            self._spool()

    def _spool(self) -> None:
        traces, self._held = self._held, []
        if not traces:
            return
        try:
            self._submit(*traces)
        except SpoolError:
            for trace in traces:
                self._spool_alone(trace)
        if logger.isEnabledFor(logging.INFO):
            log_entries(logger, "request", [_line(trace) for trace in traces])

    def _spool_alone(self, trace: RequestTrace) -> None:
        try:
            self._submit(trace)
        except SpoolError as error:  # the answer is good all the same; the log line keeps what the spool could not
            self._metrics.count_unspooled_record()
            fields = msgspec.to_builtins(trace.to_record()) | {"cause": str(error)}
            logger.error("record not spooled", extra={FIELDS: fields})  # noqa: TRY400 - with a full disk there are many


def _given_id(scope: Scope) -> str | None:
    """The client's own id if it is a valid one."""
    given = header(scope, b"x-request-id")
    return given if given is not None and _VALID_REQUEST_ID.fullmatch(given) else None


def _line(trace: RequestTrace) -> dict[str, Any]:
    """What the log says of a request."""
    return {
        "request_id": trace.request_id,
        "endpoint": trace.endpoint,
        "status": trace.status or Status.SUCCESS,
        "http_status": trace.http_status,
        "duration_ms": _rounded(trace.duration_ms),
        "ttft_ms": _rounded(trace.ttft_ms),
        "model_name": trace.model_name,
        "prompt_tokens": trace.prompt_tokens,
        "completion_tokens": trace.completion_tokens,
        "error_type": trace.error_type,
    }


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)
