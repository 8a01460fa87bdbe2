"""What a chart shows, and where on the paper. Pure; the template `plot.html` makes SVG of it.

Widths are percent of the plot area and heights are pixels: the drawing stretches sideways with the window while its
letters, marks and strokes keep their size, so that one drawing serves a desk and a phone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from bench.report.scales import Scale, Tick, spaced
from bench.report.stacks import Stack

HEIGHT_PX = 240
WIDTH = 1000
"""Units across the plot area, in paths."""

_LABEL_PX = 17.0
_VOID_PX = 16


class Dot(msgspec.Struct, frozen=True):
    """A point of a line. `note` is what a reader sees who points at it; None gives it no mark."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str | None = None


class Line(msgspec.Struct, frozen=True):
    """One server's. A gap parts its runs: what lies between was not measured, or says nothing."""

    stack: Stack
    runs: tuple[tuple[Dot, ...], ...]

    @property
    def dots(self) -> list[Dot]:
        """All of them."""
        return [dot for run in self.runs for dot in run]


class Void(msgspec.Struct, frozen=True):
    """A load that says nothing of its server: it has a place on the x axis, and no value."""

    stack: Stack
    x: float
    note: str


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A chart.

    Attributes:
        key: that no other chart of the page has.
        title: what it shows.
        description: for whoever does not see it.
        x: the axis.
        y: likewise.
        x_label: what x is, with its unit.
        y_label: likewise.
        x_ticks: values that are written below it, as far as there is room; None takes round ones.
        lines: by server.
        voids: loads that are not drawn.
        diagonal: whether to draw where y equals x.
        is_labelled: whether lines carry their names at their right ends.
    """

    key: str
    title: str
    description: str
    x: Scale
    y: Scale
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...] | None = None
    lines: tuple[Line, ...]
    voids: tuple[Void, ...] = ()
    diagonal: bool = False
    is_labelled: bool = True

    @property
    def stacks(self) -> list[Stack]:
        """Those in its legend."""
        found = [line.stack for line in self.lines]
        for void in self.voids:
            if void.stack not in found:
                found.append(void.stack)
        return found

    def across(self, value: float) -> str:
        """Percent of the width."""
        return f"{100 * self.x.share(value):.2f}%"

    def down(self, value: float) -> str:
        """Pixels from the top."""
        return f"{HEIGHT_PX * (1 - self.y.share(value)):.1f}"

    def columns(self) -> list[Tick]:
        """Ticks of the x axis."""
        return spaced(self.x, self.x.ticks() if self.x_ticks is None else self.x_ticks)

    def path(self, run: Sequence[Dot]) -> str:
        """A stroke through the dots."""
        return "M" + "L".join(self._place(dot.x, dot.y) for dot in run)

    def band(self, run: Sequence[Dot]) -> str | None:
        """The area between the dots' intervals; None where a dot has none."""
        there = [self._place(dot.x, dot.high) for dot in run if dot.high is not None]
        back = [self._place(dot.x, dot.low) for dot in reversed(run) if dot.low is not None]
        if len(run) < 2 or len(there) < len(run) or len(back) < len(run):
            return None
        return "M" + "L".join([*there, *back]) + "Z"

    def diagonal_path(self) -> str:
        """Where y equals x, as far as both axes reach: a curve, where one axis is logarithmic and the other is not."""
        low, high = max(self.x.low, self.y.low), min(self.x.high, self.y.high)
        values = [low * (high / low) ** (step / 40) if low > 0 else high * step / 40 for step in range(41)]
        return self.path([Dot(value, value) for value in values])

    def placed_voids(self) -> list[tuple[Void, int]]:
        """Loads that are not drawn, and pixels from the top: those of one place stand on each other."""
        below: Counter[float] = Counter()
        placed = []
        for void in self.voids:
            placed.append((void, HEIGHT_PX - _VOID_PX // 2 - _VOID_PX * below[void.x]))
            below[void.x] += 1
        return placed

    def labels(self) -> list[tuple[Stack, float]]:
        """Names at the right ends of lines that reach furthest right, and how far down they stand: none on another."""
        if not self.is_labelled or not any(line.dots for line in self.lines):
            return []
        furthest = max(dot.x for line in self.lines for dot in line.dots)
        ends = [(line.stack, line.dots[-1]) for line in self.lines if line.dots and line.dots[-1].x == furthest]
        ends.sort(key=lambda end: -end[1].y)
        places = spread([float(self.down(dot.y)) for _, dot in ends], _LABEL_PX, float(HEIGHT_PX))
        return [(stack, place) for (stack, _), place in zip(ends, places, strict=True)]

    def _place(self, x: float, y: float) -> str:
        return f"{WIDTH * self.x.share(x):.1f} {HEIGHT_PX * (1 - self.y.share(y)):.1f}"


def spread(places: Sequence[float], gap: float, end: float) -> list[float]:
    """Ascending places moved as little as keeps them `gap` apart and, while there is room, before the end."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    limit = end
    for number in range(len(moved) - 1, -1, -1):
        moved[number] = min(moved[number], limit)
        limit = moved[number] - gap
    return moved
