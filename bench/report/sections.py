"""The charts of a comparison in the order of the page. Pure."""

from __future__ import annotations

from bench.compare.points import Engine
from bench.report.curves import closed_panels, open_panels
from bench.report.distributions import LATENCY, TPOT, TTFT, Quantity, distribution_panels
from bench.report.panels import Panel, Section
from bench.report.samples import Sample
from bench.report.timeline import timeline_panels


def sections(samples: list[Sample]) -> tuple[Section, ...]:
    """What the servers themselves cost, then what a user sees with the model behind them, then one load in time."""
    return (
        Section(
            key="connections",
            title="Throughput against connections",
            text="Closed loops: so many connections, each of which asks again as soon as it has its answer. The engine "
            "makes its tokens up and costs nothing, so that only the servers differ.",
            panels=closed_panels(samples, "stub"),
        ),
        Section(
            key="latencies",
            title="How latencies are distributed",
            text="Whole answers in closed loops, as far as they came. Further left is faster. The axis gives the "
            "slowest tenth as much room as the rest.",
            panels=distribution_panels(samples, "stub", "chat", LATENCY, is_open=False),
            is_small=True,
        ),
        Section(
            key="arrivals",
            title="Throughput and goodput against offered rate",
            text="Open loops: requests arrive as a Poisson process, whatever the server does, and latencies count from "
            "the arrival. Goodput counts requests that ended whole and within the objectives. On the dotted diagonal a "
            "server answers all that arrives.",
            panels=open_panels(samples, "stub"),
            is_small=True,
        ),
        Section(
            key="first-tokens",
            title="Time to first token, and per token",
            text="Streamed answers in open loops: until the first token, from the arrival, "
            "and for each one after it. The engine makes its tokens up at a set pace.",
            panels=_streams(samples, "stub", is_open=True),
            is_small=True,
        ),
        Section(
            key="model",
            title="With the embedded model",
            text="What a user sees: the real model, which takes most of the time, behind each server.",
            panels=(*closed_panels(samples, "model"), *open_panels(samples, "model")),
            is_small=True,
        ),
        Section(
            key="model-tokens",
            title="First token and per token, with the model",
            text="Streamed answers, from the arrival: open loops, then closed ones.",
            panels=(*_streams(samples, "model", is_open=True), *_streams(samples, "model", is_open=False)),
            is_small=True,
        ),
        Section(
            key="timeline",
            title="One load, second by second",
            text="The heaviest load of which most servers have a valid point, in the first round in which they have. "
            "A server that stalls shows it here.",
            panels=timeline_panels(samples),
        ),
    )


def _streams(samples: list[Sample], engine: Engine, *, is_open: bool) -> tuple[Panel, ...]:
    quantities: tuple[Quantity, ...] = (TTFT, TPOT)
    return tuple(
        panel
        for quantity in quantities
        for panel in distribution_panels(samples, engine, "stream", quantity, is_open=is_open)
    )
