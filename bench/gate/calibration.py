"""What an injection has to be for a given slowdown.

An amount that surely shows is injected first, and both sides are measured in turns, as the gate measures them: figures
of different moments differ by two on a noisy machine, neighbours do not. From what that comes to follows an amount for
twice the slowdown that is wanted, and from that, measured in turn, one for the slowdown itself. As half an amount need
not cost half as much (a part of a boot is hidden behind other parts), that one is measured too, longer, and put right.
"""

from __future__ import annotations

import statistics

import msgspec

from bench.gate.clone import Clone
from bench.gate.injections import Injection
from bench.gate.pair import Pair
from bench.gate.statistics import slowdowns

_NUM_ROUNDS = 7
_MIN_SLOWDOWN = 1.12
"""Of less, a fifth would be noise."""

_MAX_TRIES = 4
_APPROACHES = ((2, 1), (1, 3))
"""Times what is wanted, and how often that is measured: what is small is hard to tell from noise."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True, tag="calibration", tag_field="line"):
    """How much of an injection is wanted.

    Attributes:
        revision: that was slowed down.
        injection: its name.
        probe: the amount that was tried last.
        slowdown: that it came to.
        amount: for the slowdown that is wanted.
    """

    revision: str
    injection: str
    probe: int
    slowdown: float
    amount: int


def calibrate(injection: Injection, clone: Clone) -> Calibration:
    """Find the amount. A micro path is timed, since the gate counts its instructions: 5 % is 5 % of the time.

    Args:
        injection: the slowdown.
        clone: whose HEAD is slowed down.

    Raises:
        SystemExit: ever larger probes did not show.
        BenchError: a path failed.
    """
    probe, slowdown = injection.probe, 0.0
    for _ in range(_MAX_TRIES):
        slowdown = _measured(injection, probe, clone, 1)
        if slowdown >= _MIN_SLOWDOWN:
            break
        probe *= 3
    else:
        raise SystemExit(f"{injection.name}: {probe // 3} did not show ({slowdown:.3f})")
    for times_share, num_measurements in _APPROACHES:
        probe = _scaled(probe, slowdown, times_share * injection.share)
        slowdown = _measured(injection, probe, clone, num_measurements)
        if slowdown <= 1:
            raise SystemExit(f"{injection.name}: {probe} did not show ({slowdown:.3f})")
    return Calibration(
        revision=clone.base,
        injection=injection.name,
        probe=probe,
        slowdown=round(slowdown, 4),
        amount=_scaled(probe, slowdown, injection.share),
    )


def _measured(injection: Injection, amount: int, clone: Clone, num_measurements: int) -> float:
    """How much slower that amount makes it. A micro path is timed, for the gate counts instructions."""
    clone.inject(injection, amount)
    if injection.duel == "micro":
        return clone.time(injection.name, num_measurements * _NUM_ROUNDS)
    found: list[float] = []
    for seed in range(num_measurements):
        result = clone.gate("--only", injection.duel, "--rounds", str(_NUM_ROUNDS), "--seed", str(seed))
        verdict = next(each for each in result.metrics if each.name == injection.metric.name)
        found += slowdowns(injection.metric, Pair(verdict.base, verdict.head))
    return statistics.median(found)


def _scaled(amount: int, slowdown: float, share: float) -> int:
    return max(1, round(amount * share / (slowdown - 1)))
