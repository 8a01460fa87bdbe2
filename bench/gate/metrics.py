"""What the gate looks at, and how much slower each may become. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from bench.gate.result import Kind


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of both sides.

    Attributes:
        name: in results.
        label: what it is, in words.
        unit: of the figures.
        better: whether less of it is better, or more.
        kind: how it is come by.
        limit: a slowdown that must not get through.
        margin: a slowdown that is let through.
    """

    name: str
    label: str
    unit: str
    better: Literal["lower", "higher"]
    kind: Kind = "sampled"
    limit: float = 1.10
    margin: float = 1.05

    def slowdown(self, base: float, head: float) -> float:
        """The head's cost over the base's: above 1, the head is slower."""
        return head / base if self.better == "lower" else base / head


REQUESTS = Metric(name="requests_per_s", label="whole answers, stub engine", unit="1/s", better="higher")
REQUEST_CPU = Metric(name="request_cpu_us", label="processor time of a request", unit="us", better="lower")
EVENTS = Metric(name="events_per_s", label="streamed events, stub engine", unit="1/s", better="higher")
STEP_1 = Metric(name="step_ms@1", label="engine step, one sequence", unit="ms", better="lower")
STEP_16 = Metric(name="step_ms@16", label="engine step, 16 sequences", unit="ms", better="lower")
COLD_START = Metric(name="cold_start_s", label="exec to the first token", unit="s", better="lower")
LOG_ROWS = Metric(name="log_rows_per_s", label="rows of the request log", unit="1/s", better="higher")
PEAK_RSS = Metric(name="peak_rss_bytes", label="peak memory, with the model", unit="bytes", better="lower")

SAMPLED = (REQUESTS, REQUEST_CPU, EVENTS, STEP_1, STEP_16, COLD_START, LOG_ROWS, PEAK_RSS)


def micro(path: str, kind: Kind) -> Metric:
    """The cost of one micro path: instructions where they can be counted, else time.

    A count is the same each time to some thousandths, so little is let through: 5 % of the time can be 3 % of the
    instructions, where those that were added take longer than the others.
    """
    if kind == "counted":
        name, unit, margin = f"{path}_instructions", "instructions", 1.02
    else:
        name, unit, margin = f"{path}_us", "us", 1.025
    return Metric(name=name, label=f"{path}, a call", unit=unit, better="lower", kind=kind, limit=1.05, margin=margin)
