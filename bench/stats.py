"""Statistics of raw samples. Pure: no I/O, no clock, no global random state.

Samples are kept as they were taken; medians, ranges and intervals are derived here when they are shown.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

import msgspec

CONFIDENCE = 0.95
_RESAMPLES = 2000


class Summary(msgspec.Struct, frozen=True):
    """What is said of some samples.

    Attributes:
        median: the middle one.
        low: the smallest.
        high: the largest.
        interval: 95 % bootstrap interval of the median; None for fewer than three samples, which say nothing of it.
        num_samples: how many there were.
    """

    median: float
    low: float
    high: float
    interval: tuple[float, float] | None
    num_samples: int


def summarise(samples: Sequence[float]) -> Summary:
    """Median, range and interval.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("no samples to summarise")
    interval = bootstrap_interval(samples) if len(samples) >= 3 else None
    return Summary(statistics.median(samples), min(samples), max(samples), interval, len(samples))


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0 to 1] of all samples do not exceed (nearest rank).

    Raises:
        ValueError: there are no samples, or the share lies outside its range.
    """
    if not samples:
        raise ValueError("no samples to take a percentile of")
    if not 0.0 < share <= 1.0:
        raise ValueError(f"a percentile's share must be above 0 and at most 1, got {share}")
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


def bootstrap_interval(samples: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron 1979) of the median at CONFIDENCE; the same samples give the same one."""
    rng = random.Random(seed)  # noqa: S311  (resampling, not a secret)
    medians = sorted(statistics.median(rng.choices(samples, k=len(samples))) for _ in range(_RESAMPLES))
    tail = (1.0 - CONFIDENCE) / 2.0
    return percentile(medians, tail), percentile(medians, 1.0 - tail)
