"""The distribution of samples in the points that a chart or a table needs. Pure; the samples themselves stay raw."""

from __future__ import annotations

import math
from collections.abc import Sequence

Cdf = tuple[tuple[float, float], ...]
"""(share, milliseconds): that share (0 to 1] of all samples did not exceed so many milliseconds; both ascend."""

_TAIL = (0.995, 0.999, 0.9995, 0.9999, 0.99999)


def cdf_of(samples_s: Sequence[float]) -> Cdf | None:
    """One point each hundredth, more in the tail as far as there are samples for it, and the largest; None for none.

    Each is a sample (nearest rank), as in `bench.stats.percentile`, so that none has to be made up between two.
    """
    if not samples_s:
        return None
    ordered = sorted(samples_s)
    num = len(ordered)
    shares = [share / 100 for share in range(1, 100)] + [share for share in _TAIL if num * (1.0 - share) >= 1.0]
    return tuple((share, ordered[math.ceil(share * num) - 1] * 1e3) for share in (*shares, 1.0))


def at(cdf: Cdf, share: float) -> float:
    """Milliseconds that so many did not exceed, by the next point."""
    return next(ms for known, ms in cdf if known >= share)
