"""Follows each HTTP request from first byte to last: its id, its record, its metrics, its log line.

The record is handed over *before* the last byte of the response goes out, so that a response that a client has
received whole has its row. Event loop only.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler.errors import ClientDisconnectedError, PilotlightError, SpoolError
from handler.logs import FIELDS, log_entries
from handler.metrics import Metrics
from handler.outbox import BEFORE_WRITE
from handler.randomness import Randomness
from handler.requestlog.facts import Facts
from handler.requestlog.record import Status
from handler.shortcut import beside
from handler.trace import RequestTrace, forget_frames, headers

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
        self._randomness = Randomness()
        self._held: list[RequestTrace] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Trace HTTP, pass anything else on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        randomness = self._randomness.take()
        trace = RequestTrace(
            request_id=_given_id(scope) or randomness[:32],
            endpoint=scope["path"],
            salt=randomness[33:],
            cold_start=self._is_cold(),
        )
        scope["pilotlight.trace"] = trace
        exchange = _Exchange(scope, trace, send, self._close)
        self._metrics.num_requests_active += 1
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnectedError as error:
            trace.fail(error)  # nobody is left to answer, so this is handled
        except BaseException as error:
            trace.fail(error)
            trace.http_status = trace.http_status or 500
            raise
        finally:
            self._metrics.num_requests_active -= 1
            exchange.close()

    def _close(self, scope: Scope, trace: RequestTrace) -> None:
        trace.http_status = trace.http_status or _CLIENT_CLOSED_REQUEST
        trace.end_s = time.monotonic()
        path, method = trace.endpoint, scope["method"]
        self._metrics.observe_request(trace, method, path if path in self._endpoints else "other")
        if isinstance(trace.error, PilotlightError):
            forget_frames(trace.error)
        if method != "POST" or not (path.startswith("/v1/") or path in self._posted):
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


class _Exchange:
    """One request and its response as they pass through; the trace is closed before the last byte.

    Args:
        scope: of the request.
        trace: of the request.
        send: the server's own.
        close: called once, when the last byte is about to leave.
    """

    __slots__ = ("_close", "_is_open", "_scope", "_send", "_trace")

    def __init__(
        self, scope: Scope, trace: RequestTrace, send: Send, close: Callable[[Scope, RequestTrace], None]
    ) -> None:
        self._scope = scope
        self._trace = trace
        self._send = send
        self._close = close
        self._is_open = True

    def send(self, message: Message) -> Awaitable[None]:  # no coroutine of its own, which each message would pay
        """Pass a message on, with the request's id in the response's head."""
        if message["type"] == "http.response.start":
            trace = self._trace
            trace.http_status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", trace.request_id.encode())]
            if trace.allowance is not None:
                message["headers"] += trace.allowance.headers
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.close()
        return self._send(message)

    def send_json(self, body: bytes) -> bool:
        """Send a whole response at once, if the server can do that; False: it has to go by messages.

        Found by `beside`, as the server's own method is.
        """
        send_whole = beside(self._send, "send_whole")
        if send_whole is None:
            return False
        trace = self._trace
        trace.http_status = 200
        fields = b"content-type: application/json\r\nx-request-id: %b\r\n" % trace.request_id.encode()
        is_sent: bool = send_whole(fields, body, self.close)
        return is_sent

    def close(self) -> None:
        """Nothing more is noted of the request."""
        if self._is_open:
            self._is_open = False
            self._close(self._scope, self._trace)


def _given_id(scope: Scope) -> str | None:
    """The client's own id if it is a valid one."""
    given = headers(scope).get(b"x-request-id")
    if given is None:
        return None
    shown = given.decode("latin-1")
    return shown if _VALID_REQUEST_ID.fullmatch(shown) else None


class Line(msgspec.Struct, frozen=True):
    """What the log says of a request."""

    request_id: str
    endpoint: str
    status: Status
    http_status: int | None
    duration_ms: float | None
    ttft_ms: float | None
    model_name: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    error_type: str | None


def _line(trace: RequestTrace) -> Line:
    return Line(
        trace.request_id,
        trace.endpoint,
        trace.status or Status.SUCCESS,
        trace.http_status,
        _to_the_tenth(trace.duration_ms),
        _to_the_tenth(trace.ttft_ms),
        trace.model_name,
        trace.prompt_tokens,
        trace.completion_tokens,
        trace.error_type,
    )


def _to_the_tenth(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds * 10) / 10  # a third of what round(_, 1) takes
