"""How latencies, first tokens and times per token are distributed, load by load. Pure.

The rounds' distributions are taken together share by share: at each share a median over the rounds and its interval.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec

from bench.compare.points import Engine, LoadPoint, Workload
from bench.distribution import Cdf
from bench.report.numbers import figure, number, percent
from bench.report.panels import Panel, Table, named, shown
from bench.report.plot import Dot, Line, Plot
from bench.report.samples import Sample, at_share, chosen, load_label, load_of, whole_share
from bench.report.scales import Scale, fitted
from bench.report.stacks import Stack, stacks_in
from bench.stats import summarise

_DEPTHS = (0.9, 0.99, 0.999)
_GOOD_AS_WHOLE = 0.99
_MARKED = (0.5, 0.9, 0.99)
_GRID = (
    *(number / 50 for number in range(1, 45)),
    *(0.9 + number / 200 for number in range(18)),
    *(0.99 + number / 2000 for number in range(19)),
)
"""Shares at which a line is drawn: denser where the axis has more room."""


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """What is distributed."""

    key: str
    title: str
    cdf_of: Callable[[LoadPoint], Cdf | None]


LATENCY = Quantity(key="latency", title="Latency", cdf_of=lambda point: point.latency_ms)
TTFT = Quantity(key="ttft", title="Time to first token", cdf_of=lambda point: point.ttft_ms)
TPOT = Quantity(key="tpot", title="Time per token", cdf_of=lambda point: point.tpot_ms)


def distribution_panels(
    samples: list[Sample], engine: Engine, workload: Workload, quantity: Quantity, *, is_open: bool
) -> tuple[Panel, ...]:
    """One panel for each of the lightest, a middle and the heaviest load; all loads stand in the curves."""
    found = [
        sample
        for sample in chosen(samples, engine=engine, workloads=[workload], is_open=is_open)
        if sample.point.invalid is None and quantity.cdf_of(sample.point)
    ]
    loads = sorted({load_of(sample.point) for sample in found})
    picked = sorted({loads[0], loads[len(loads) // 2], loads[-1]}) if loads else []
    return tuple(_panel([s for s in found if load_of(s.point) == load], engine, quantity) for load in picked)


def _panel(samples: list[Sample], engine: Engine, quantity: Quantity) -> Panel:
    point = samples[0].point
    load = load_label(point)
    stacks = stacks_in(sample.stack for sample in samples)
    lines = tuple(_line(stack, [s for s in samples if s.stack == stack.name], quantity) for stack in stacks)
    deepest = max((dot.y for line in lines for dot in line.dots), default=0.0)
    kind = "open" if point.offered_per_s is not None else "closed"
    title = f"{quantity.title}, {load}"
    plot = Plot(
        key=f"{engine}-{point.workload}-{quantity.key}-{kind}-{load_of(point):g}",
        title=title,
        description=f"One line for each server: the share of requests whose {quantity.title.lower()} did not exceed so "
        "many milliseconds; further left is faster. The same figures stand in the table below.",
        x=fitted([dot.x for line in lines for dot in line.dots]),
        y=Scale("tail", 0.0, next((depth for depth in _DEPTHS if depth >= deepest - 1e-9), _DEPTHS[-1])),
        x_label="milliseconds",
        y_label="share of requests that took no longer",
        lines=tuple(line for line in lines if line.runs),
        is_labelled=False,
    )
    return Panel(plot, _table(f"{title}, ms", samples, stacks, quantity), _survivors(samples, stacks))


def _line(stack: Stack, samples: list[Sample], quantity: Quantity) -> Line:
    """Of shares that at least one request lies beyond in every round: further out a line would show one request."""
    fewest = min(sample.point.requests_per_s * sample.point.seconds for sample in samples)
    shares = [share for share in _shares(samples, quantity) if (1 - share) * fewest >= 1] or [0.5]
    dots = []
    for share in shares:
        values_ms = _values_at(samples, quantity, share)
        if not values_ms:
            continue  # a distribution that was noted no further
        median_ms = statistics.median(values_ms)
        is_marked = any(abs(share - marked) < 1e-9 for marked in _MARKED)
        note = f"{stack.label}, {percent(share)}: {number(median_ms)} ms" if is_marked else None
        dots.append(Dot(median_ms, share, note=note))
    return Line(stack, (tuple(dots),) if dots else ())


def _survivors(samples: list[Sample], stacks: list[Stack]) -> str | None:
    """Which lines hold only what a server's failures left; None where all are as good as whole."""
    named_shares = []
    for stack in stacks:
        shares = [whole_share(sample.point) for sample in samples if sample.stack == stack.name]
        present = [share for share in shares if share is not None]
        if present and statistics.median(present) < _GOOD_AS_WHOLE:
            named_shares.append(f"{stack.label} {percent(round(statistics.median(present), 2))}")
    if not named_shares:
        return None
    return f"Not all requests ended whole, and only those that did are drawn: {', '.join(named_shares)}."


def _shares(samples: list[Sample], quantity: Quantity) -> list[float]:
    """Those at which something was written down; where that is too much to draw, a grid."""
    noted = {share for sample in samples for share, _ in quantity.cdf_of(sample.point) or () if share <= _DEPTHS[-1]}
    return sorted({*(_GRID if len(noted) > 2 * len(_GRID) else noted), *_MARKED})


def _values_at(samples: list[Sample], quantity: Quantity, share: float) -> list[float]:
    """By round: milliseconds that this share did not exceed."""
    values = [at_share(quantity.cdf_of(sample.point) or (), share) for sample in samples]
    return [value for value in values if value is not None]


def _table(caption: str, samples: list[Sample], stacks: list[Stack], quantity: Quantity) -> Table:
    shares = (*_MARKED, 0.999, 1.0)
    rows = []
    for stack in stacks:
        own = [sample for sample in samples if sample.stack == stack.name]
        found = [_values_at(own, quantity, share) for share in shares]
        rows.append((named(stack.label), *(shown(figure(summarise(values) if values else None)) for values in found)))
    return Table(
        caption, ("", *(f"p{percent(share).removesuffix(' %')}" for share in shares[:-1]), "slowest"), tuple(rows)
    )
