"""What an injection has to be for a given slowdown.

An amount that surely shows is injected first, and both sides are measured in turns, as the gate measures them: figures
of different moments differ by two on a noisy machine, neighbours do not. Where the probe made the function a third
slower, a fifteenth of that third is 2 %: what is added costs the same each time it is run.
"""

from __future__ import annotations

import msgspec

from bench.gate.clone import Clone
from bench.gate.injections import Injection

_NUM_ROUNDS = 7
_MIN_SLOWDOWN = 1.12
"""Of less, a fifth would be noise."""

_MAX_TRIES = 4


class Calibration(msgspec.Struct, frozen=True, kw_only=True, tag="calibration", tag_field="line"):
    """How much of an injection is wanted.

    Attributes:
        revision: that was slowed down.
        injection: its name.
        probe: the amount that was tried.
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
    probe = injection.probe
    for _ in range(_MAX_TRIES):
        clone.inject(injection, probe)
        if injection.duel == "micro":
            slowdown = clone.time(injection.name, _NUM_ROUNDS)
        else:
            result = clone.gate("--only", injection.duel, "--rounds", str(_NUM_ROUNDS))
            slowdown = next(each.slowdown for each in result.metrics if each.name == injection.metric.name)
        if slowdown >= _MIN_SLOWDOWN:
            return Calibration(
                revision=clone.base,
                injection=injection.name,
                probe=probe,
                slowdown=round(slowdown, 4),
                amount=max(1, round(probe * injection.share / (slowdown - 1))),
            )
        probe *= 3
    raise SystemExit(f"{injection.name}: {probe // 3} did not show ({slowdown:.3f})")
