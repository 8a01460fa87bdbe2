"""How figures are written: digits, thousands, units, intervals. Pure; knows no page."""

from __future__ import annotations

import msgspec

from bench.stats import Summary

TIMES = "\N{MULTIPLICATION SIGN}"

NOTHING = "\N{EN DASH}"
"""In place of a figure that was not measured; between the ends of an interval."""

_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


class Figure(msgspec.Struct, frozen=True):
    """A figure as it is shown.

    Attributes:
        text: the median.
        interval: its 95 % interval, None where there are too few rounds for one.
    """

    text: str
    interval: str | None


def number(value: float) -> str:
    """Three significant digits, or all digits before the point, with commas between thousands."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1 or size == 0:
        return f"{value:.2f}" if size else "0"
    return f"{value:#.3g}"


def exact(value: float) -> str:
    """A figure that was set or stated, not measured: with all its digits, and no more."""
    return f"{value:,.10g}"


def short(value: float) -> str:
    """As a tick of an axis has room for: 12k, 2.5k, 0.05."""
    for scale, suffix in _SUFFIXES:
        if abs(value) >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share as percent, without zeros at its end."""
    return f"{100 * share:.6g} %"


def times(value: float) -> str:
    """A ratio, as so many times."""
    return f"{number(value)}{TIMES}"


def change(ratio: float) -> str:
    """A ratio as what it adds: 1.035 is +3.5 %."""
    return f"{100 * (ratio - 1):+.1f} %"


def mebibytes(num_bytes: float) -> str:
    """A size in MiB, or in KiB below one."""
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.0f} KiB"


def figure(summary: Summary | None, scale: float = 1.0) -> Figure:
    """Median and interval in units of `scale`."""
    if summary is None:
        return Figure(NOTHING, None)
    if summary.interval is None:
        return Figure(number(summary.median / scale), None)
    low, high = summary.interval
    return Figure(number(summary.median / scale), span(low / scale, high / scale))


def span(low: float, high: float) -> str:
    """Two ends of an interval."""
    return f"{number(low)} {NOTHING} {number(high)}"
