"""Where a value stands on an axis, and which values are written beside it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from bench.report.numbers import percent, short

Kind = Literal["linear", "log", "tail"]
"""`tail` is for shares: it gives 90 to 99 % as much room as 0 to 90 %, since that is where servers differ."""

NARROWEST_PX = 264
"""Plot area on the smallest phone that a report is made for; labels that fit there fit everywhere."""

_CHARACTER_PX = 6.6
_GAP_PX = 9.0
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LARGEST_SPREAD = 20.0
_MOST_TICKS = 7


class Tick(msgspec.Struct, frozen=True):
    """A value that is written beside an axis."""

    value: float
    label: str


class Scale(msgspec.Struct, frozen=True):
    """From `low` at 0 to `high` at 1."""

    kind: Kind
    low: float
    high: float

    def share(self, value: float) -> float:
        """How far along the axis a value stands; outside [0, 1] where it lies beyond an end."""
        transform = _TRANSFORMS[self.kind]
        start, end = transform(self.low), transform(self.high)
        return (transform(value) - start) / (end - start)

    def ticks(self, wanted: int = 5) -> list[Tick]:
        """About so many round values from low to high."""
        if self.kind == "tail":
            shares = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
            return [Tick(share, percent(share)) for share in shares if share <= self.high]
        values = _decades(self.low, self.high) if self.kind == "log" else _steps(self.low, self.high, wanted)
        return [Tick(value, short(value)) for value in values]


_TRANSFORMS: dict[Kind, Callable[[float], float]] = {
    "linear": float,
    "log": math.log10,
    "tail": lambda share: -math.log10(1.0 - share),
}


def fitted(values: Iterable[float]) -> Scale:
    """A linear scale from zero, or a logarithmic one where the values are positive and far apart."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=0.0)
    if low > 0 and high / low > _LARGEST_SPREAD:
        return logarithmic(found)
    return from_zero(found)


def from_zero(values: Iterable[float]) -> Scale:
    """A linear scale from zero, or from the least of the values where that is below."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=0.0)
    return Scale("linear", min(0.0, low), _ceiling(high) if high > 0 else 1.0)


def logarithmic(values: Iterable[float]) -> Scale:
    """From a round value below to one above, for values of which one at least is positive.

    Raises:
        ValueError: none is.
    """
    positive = [value for value in values if value > 0]
    if not positive:
        raise ValueError("a logarithmic scale needs a positive value")
    low, high = _floor_of_decade(min(positive)), _ceiling(max(positive))
    return Scale("log", low, high if high > low else 10 * low)


def spaced(scale: Scale, ticks: Sequence[Tick]) -> list[Tick]:
    """As many of the ticks as do not touch on a narrow axis, the last one among them."""
    kept: list[Tick] = []
    for tick in sorted(ticks, key=lambda tick: -tick.value):
        if not kept:
            kept.append(tick)
            continue
        apart_px = (scale.share(kept[-1].value) - scale.share(tick.value)) * NARROWEST_PX
        if apart_px >= _CHARACTER_PX * (len(tick.label) + len(kept[-1].label)) / 2 + _GAP_PX:
            kept.append(tick)
    return kept[::-1]


def _ceiling(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _STEPS if step * power >= value * (1 - 1e-9))


def _floor_of_decade(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= value * (1 + 1e-9))


def _steps(low: float, high: float, wanted: int) -> list[float]:
    step = _ceiling((high - low) / wanted)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """As many as are not too many: 1, 2 and 5 of each power of ten, 1 and 3, one, or one of every second power."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1)
    found: list[float] = []
    for every, factors in ((1, (1, 2, 5)), (1, (1, 3)), (1, (1,)), (2, (1,)), (4, (1,))):
        values = (factor * 10.0**power for power in powers[::every] for factor in factors)
        found = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) <= _MOST_TICKS:
            break
    return found
