"""What a request is in Locust's statistics: an entry for each of its times, in milliseconds.

Locust's line `Aggregated` adds them all up, and so says nothing.
"""

from __future__ import annotations

from typing import Any

from bench.record import RequestRecord
from bench.slo import Objective, meets

_TYPE = "chat"


class MissError(Exception):
    """Why a request has no whole and right answer, as Locust counts failures: by this text."""


class Entries:
    """Tells Locust of each request.

    Args:
        request_event: Locust's `events.request`.
        objectives: of the goodput, whose entry counts the requests that met them.
        is_open: whether requests were scheduled, and so can have been sent late.
    """

    def __init__(self, request_event: Any, objectives: tuple[Objective, ...], *, is_open: bool) -> None:
        self._event = request_event
        self._objectives = objectives
        self._is_open = is_open

    def add(self, record: RequestRecord) -> None:
        """One request that is over."""
        miss = None if record.failure is None else MissError(f"{record.failure}: {record.error}")
        self._fire("E2E", record.e2e_s, length=record.completion_tokens or 0, exception=miss)
        if self._is_open:
            self._fire("dispatch delay", record.dispatch_delay_s)
        if miss is not None:
            return
        if record.ttft_s is not None:
            self._fire("TTFT", record.ttft_s)
        if record.tpot_s is not None:
            self._fire("TPOT", record.tpot_s)
        for gap_s in record.gaps_s:
            self._fire("ITL", gap_s)
        if self._objectives and meets(record, self._objectives):
            self._fire("goodput", record.e2e_s)

    def _fire(self, name: str, taken_s: float, *, length: int = 0, exception: Exception | None = None) -> None:
        self._event.fire(
            request_type=_TYPE,
            name=name,
            response_time=taken_s * 1e3,
            response_length=length,
            exception=exception,
            context={},
        )
