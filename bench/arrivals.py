"""When requests arrive: the processes of an open loop, seeded. Pure; knows no clock and sends nothing.

Times are seconds since the load began. A process of a changing rate is one of rate 1 whose time is stretched: its n-th
arrival comes when the rate, summed over time, has reached what the n-th one of rate 1 takes (Cinlar 1975).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import msgspec

from bench.errors import BenchError
from bench.traces import TraceFormat


class Closed(msgspec.Struct, frozen=True, kw_only=True, tag="closed"):
    """No process: each of so many users asks again as soon as it has its answer."""

    users: int


class Constant(msgspec.Struct, frozen=True, kw_only=True, tag="constant"):
    """One each `1 / rate_per_s` seconds, the first at once."""

    rate_per_s: float


class Poisson(msgspec.Struct, frozen=True, kw_only=True, tag="poisson"):
    """As many independent users come: the gaps are exponential."""

    rate_per_s: float


class Gamma(msgspec.Struct, frozen=True, kw_only=True, tag="gamma"):
    """Gaps of a gamma distribution with `burstiness` as its shape, as in vLLM's `bench serve`.

    Attributes:
        rate_per_s: on average.
        burstiness: below 1 they come in bursts, 1 is Poisson, above 1 they come ever more evenly.
    """

    rate_per_s: float
    burstiness: float


class Ramp(msgspec.Struct, frozen=True, kw_only=True, tag="ramp"):
    """Poisson arrivals whose rate goes from one to another over the measured time; before and after it stays."""

    from_per_s: float
    to_per_s: float


class Step(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """Poisson arrivals, whose rate is each of these for an equal part of the measured time."""

    rates_per_s: tuple[float, ...]


class Trace(msgspec.Struct, frozen=True, kw_only=True, tag="trace"):
    """As they once came to somebody, with the lengths of their prompts and answers.

    Attributes:
        path: of a CSV.
        format: of its rows.
        speed: 2 replays it twice as fast.
    """

    path: str
    format: TraceFormat
    speed: float = 1.0


OpenLoop = Constant | Poisson | Gamma | Ramp | Step | Trace
Arrivals = Closed | OpenLoop


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The times of a load.

    Attributes:
        warm_up_s: before what is measured.
        duration_s: that are measured.
        cool_down_s: after it.
    """

    warm_up_s: float
    duration_s: float
    cool_down_s: float

    @property
    def end_s(self) -> float:
        """Nothing arrives from then on."""
        return self.warm_up_s + self.duration_s + self.cool_down_s

    def holds(self, time_s: float) -> bool:
        """Whether it lies in what is measured: half open."""
        return self.warm_up_s <= time_s < self.warm_up_s + self.duration_s


def check_arrivals(arrivals: Arrivals) -> None:
    """Refuse what cannot be.

    Raises:
        BenchError: a number that is not above 0. The rates of a ramp or of steps may be 0, but not all.
    """
    match arrivals:
        case Closed(users=users):
            _positive("users", users)
        case Ramp(from_per_s=first, to_per_s=last):
            _rates("ramp", (first, last))
        case Step(rates_per_s=rates):
            _rates("step", rates)
        case Trace(speed=speed):
            _positive("speed", speed)
        case Gamma(rate_per_s=rate, burstiness=burstiness):
            _positive("rate", rate)
            _positive("burstiness", burstiness)
        case _:
            _positive("rate", arrivals.rate_per_s)


def arrival_times(arrivals: Constant | Poisson | Gamma | Ramp | Step, window: Window, seed: int) -> Iterator[float]:
    """When requests arrive, from 0 until the window ends; the same for the same seed.

    Raises:
        BenchError: a rate cannot be.
    """
    check_arrivals(arrivals)
    rng = random.Random(f"{seed}/arrivals")  # noqa: S311  (a repeatable choice, not a secret)
    pieces = _rates_over_time(arrivals, window)
    begin_s, length_s, first_per_s, last_per_s = next(pieces)
    done = 0.0  # of the sum of the rate, before this piece
    for target in _unit_arrivals(arrivals, rng):
        while target - done >= (first_per_s + last_per_s) / 2 * length_s:
            done += (first_per_s + last_per_s) / 2 * length_s
            try:
                begin_s, length_s, first_per_s, last_per_s = next(pieces)
            except StopIteration:
                return
        yield begin_s + _time_to_reach(target - done, length_s, first_per_s, last_per_s)


def _unit_arrivals(arrivals: OpenLoop, rng: random.Random) -> Iterator[float]:
    """Arrivals at one a second on average, without end."""
    match arrivals:
        case Constant():
            return map(float, itertools.count())
        case Gamma(burstiness=shape):
            return itertools.accumulate(rng.gammavariate(shape, 1.0 / shape) for _ in itertools.count())
        case _:
            return itertools.accumulate(rng.expovariate(1.0) for _ in itertools.count())


def _rates_over_time(
    arrivals: Constant | Poisson | Gamma | Ramp | Step, window: Window
) -> Iterator[tuple[float, float, float, float]]:
    """Begin, length, first and last rate of each piece in which the rate is linear in time."""
    middle_s, last_s = window.warm_up_s, window.warm_up_s + window.duration_s
    match arrivals:
        case Ramp(from_per_s=first, to_per_s=last):
            yield 0.0, middle_s, first, first
            yield middle_s, window.duration_s, first, last
            yield last_s, window.cool_down_s, last, last
        case Step(rates_per_s=rates):
            yield 0.0, middle_s, rates[0], rates[0]
            part_s = window.duration_s / len(rates)
            for index, rate in enumerate(rates):
                yield middle_s + index * part_s, part_s, rate, rate
            yield last_s, window.cool_down_s, rates[-1], rates[-1]
        case _:
            yield 0.0, window.end_s, arrivals.rate_per_s, arrivals.rate_per_s


def _time_to_reach(target: float, length_s: float, first_per_s: float, last_per_s: float) -> float:
    """When a rate that goes from one to the other over the length has summed up to the target.

    The root of `first * t + slope / 2 * t**2 = target`, in the form that loses no digits for a small slope.
    """
    slope = (last_per_s - first_per_s) / length_s
    root = math.sqrt(max(0.0, first_per_s**2 + 2.0 * slope * target))  # rounding may leave a hair below 0
    return 2.0 * target / (first_per_s + root) if target else 0.0


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise BenchError(f"{name}: must be above 0, not {value:g}")


def _rates(name: str, rates: tuple[float, ...]) -> None:
    if not rates or not any(rates) or any(not math.isfinite(rate) or rate < 0 for rate in rates):
        raise BenchError(f"{name}: needs rates of 0 or above, and one above 0, not {', '.join(map(str, rates))}")
