"""What a process holds while it runs: memory, descriptors, threads; and whether it holds more and more."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence

import msgspec
import psutil

_WARM_UP_SHARE = 0.25


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What a process held at one moment, `time_s` after the first sample."""

    time_s: float
    rss_bytes: int
    num_descriptors: int
    num_threads: int


class Sampler:
    """Looks at a process again and again.

    Attributes:
        samples: what was seen, in order.
    """

    def __init__(self, pid: int, interval_s: float) -> None:
        self.samples: list[Sample] = []
        self._process = psutil.Process(pid)
        self._interval_s = interval_s
        self._start_s = time.monotonic()

    async def run(self) -> None:
        """Until cancelled, or the process is gone."""
        while True:
            try:
                self.take()
            except psutil.NoSuchProcess:
                return
            await asyncio.sleep(self._interval_s)

    def take(self) -> Sample:
        """Look once.

        Raises:
            psutil.NoSuchProcess: it is gone.
        """
        with self._process.oneshot():
            sample = Sample(
                time_s=time.monotonic() - self._start_s,
                rss_bytes=self._process.memory_info().rss,
                num_descriptors=self._process.num_fds(),
                num_threads=self._process.num_threads(),
            )
        self.samples.append(sample)
        return sample


def rss_slope_bytes_per_s(samples: Sequence[Sample]) -> float:
    """How fast memory grows: the median of the slopes between all pairs (Theil 1950, Sen 1968), after the warm-up.

    One burst does not tilt it as it would a least-squares line.

    Raises:
        ValueError: fewer than two samples are left.
    """
    settled = after_warm_up(samples)
    slopes = [
        (later.rss_bytes - earlier.rss_bytes) / (later.time_s - earlier.time_s)
        for earlier, later in itertools.combinations(settled, 2)
    ]
    if not slopes:
        raise ValueError("one sample has no slope")
    return statistics.median(slopes)


def after_warm_up(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples of the last three quarters of the time: caches and pools have grown before."""
    end_s = samples[-1].time_s
    return [sample for sample in samples if sample.time_s >= _WARM_UP_SHARE * end_s]
