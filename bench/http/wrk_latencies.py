"""The latencies that wrk measured, without those that it made up. Pure.

When a load is over, wrk 4 corrects for coordinated omission as HdrHistogram does: it takes the mean time between two
answers on a connection for the time at which the next request was due, and adds to each latency of more than twice
that a row of shorter ones, one for each request that would have been waiting (stats_correct in its stats.c). In a
closed loop nobody else would have asked; what users of an open one see is measured, not guessed, elsewhere. The made-up
ones are known exactly from the longer ones, so they can be taken out again.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.errors import BenchError

Histogram = tuple[tuple[int, int], ...]
"""Each latency in microseconds with the number of answers that took it, ascending."""


def without_made_up(
    values: Sequence[tuple[int, int]], num_requests: int, connections: int, duration_us: int
) -> Histogram:
    """What was measured.

    Raises:
        BenchError: this wrk makes up others than those that are taken out here.
    """
    if num_requests < connections:
        return tuple(values)  # wrk adds nothing then
    expected_us = duration_us // (num_requests // connections)
    counts = dict(values)
    for value_us in sorted(counts, reverse=True):
        if value_us < 2 * expected_us:
            break
        for made_up_us in range(value_us - expected_us, expected_us, -expected_us):
            counts[made_up_us] = counts.get(made_up_us, 0) - counts[value_us]
    if any(count < 0 for count in counts.values()):
        raise BenchError("wrk: its latencies are not those of wrk 4, whose correction can be undone")
    return tuple((value_us, count) for value_us, count in sorted(counts.items()) if count)
