"""What an injection has to be for a given slowdown.

An amount that surely shows is injected first, and both sides are measured in turns, as the gate measures them: figures
of different moments differ by two on a noisy machine, neighbours do not. From what that comes to follows an amount for
twice the slowdown that is wanted, which is measured in turn: from there it is not far to half of it.
"""

from __future__ import annotations

import msgspec

from bench.gate.clone import Clone
from bench.gate.injections import Injection

_NUM_ROUNDS = 7
_MIN_SLOWDOWN = 1.12
"""Of less, a fifth would be noise."""

_MAX_TRIES = 4
_LAST_STEP = 2
"""Times what is wanted: little more would be hard to tell from noise, much more may cost less or more for each loop."""


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
        slowdown = _measured(injection, probe, clone)
        if slowdown >= _MIN_SLOWDOWN:
            break
        probe *= 3
    else:
        raise SystemExit(f"{injection.name}: {probe // 3} did not show ({slowdown:.3f})")
    probe = _scaled(probe, slowdown, _LAST_STEP * injection.share)
    slowdown = _measured(injection, probe, clone)
    if slowdown <= 1:
        raise SystemExit(f"{injection.name}: {probe} did not show ({slowdown:.3f})")
    return Calibration(
        revision=clone.base,
        injection=injection.name,
        probe=probe,
        slowdown=round(slowdown, 4),
        amount=_scaled(probe, slowdown, injection.share),
    )


def _measured(injection: Injection, amount: int, clone: Clone) -> float:
    """How much slower that amount makes it. A micro path is timed, for the gate counts instructions."""
    clone.inject(injection, amount)
    if injection.duel == "micro":
        return clone.time(injection.name, _NUM_ROUNDS)
    result = clone.gate("--only", injection.duel, "--rounds", str(_NUM_ROUNDS))
    return next(each.slowdown for each in result.metrics if each.name == injection.metric.name)


def _scaled(amount: int, slowdown: float, share: float) -> int:
    return max(1, round(amount * share / (slowdown - 1)))
