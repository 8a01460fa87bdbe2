"""Ratios one below the other on a common scale, each with its interval and with what it is held against. Pure.

Places are percent of the width, so that the drawing stretches with the window; `forest.html` makes SVG of it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bench.report.numbers import TIMES, change, span, times
from bench.report.scales import Scale, Tick, logarithmic, spaced

Unit = Literal["times", "change"]
"""How a ratio is written: as so many times, or as so many percent more or less."""

State = Literal["good", "bad", "unsure", "absent"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One ratio.

    Attributes:
        label: what is compared.
        small: in which quantity, or against which bound.
        value: the ratio, None where it was not measured.
        interval: of it.
        bounds: values that it is held against.
        state: what that came to.
        verdict: the same as a word.
    """

    label: str
    small: str
    value: float | None
    interval: tuple[float, float] | None
    bounds: tuple[float, ...]
    state: State
    verdict: str


class Forest(msgspec.Struct, frozen=True, kw_only=True):
    """The rows and their scale, which holds 1: no difference."""

    scale: Scale
    rows: tuple[Row, ...]
    caption: str
    unit: Unit

    def across(self, value: float) -> str:
        """Percent of the width."""
        return f"{100 * self.scale.share(value):.2f}%"

    def ticks(self) -> list[Tick]:
        """Ratios written below it."""
        if self.unit == "change":
            return spaced(self.scale, [Tick(tick.value, change(tick.value)) for tick in self.scale.ticks()])
        return spaced(self.scale, [Tick(tick.value, f"{tick.label}{TIMES}") for tick in self.scale.ticks()])

    def text(self, ratio: float) -> str:
        """A ratio in the unit."""
        return times(ratio) if self.unit == "times" else change(ratio)

    def between(self, interval: tuple[float, float]) -> str:
        """An interval in the unit."""
        return span(*interval) if self.unit == "times" else f"{change(interval[0])} to {change(interval[1])}"

    def note(self, row: Row) -> str:
        """What a reader sees who points at a row."""
        if row.value is None:
            return f"{row.label}: not measured"
        between = f", interval {self.between(row.interval)}" if row.interval else ""
        return f"{row.label}: {self.text(row.value)}{between}"


def gains(rows: tuple[Row, ...], caption: str) -> Forest:
    """Ratios that may be far apart, on a logarithmic scale, each as so many times."""
    return Forest(scale=logarithmic(_values(rows)), rows=rows, caption=caption, unit="times")


def changes(rows: tuple[Row, ...], caption: str) -> Forest:
    """Ratios close to 1, on a linear scale, each as so many percent."""
    values = _values(rows)
    margin = 0.08 * (max(values) - min(values) or 1.0)
    scale = Scale("linear", min(values) - margin, max(values) + margin)
    return Forest(scale=scale, rows=rows, caption=caption, unit="change")


def _values(rows: tuple[Row, ...]) -> list[float]:
    """All that the scale has to hold."""
    values = [1.0, *(bound for row in rows for bound in row.bounds)]
    return values + [value for row in rows for value in (row.value, *(row.interval or ())) if value is not None]
