from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.http.wrk_latencies import without_made_up


def as_wrk_corrects(counts: dict[int, int], expected_us: int) -> dict[int, int]:
    """stats_correct of wrk 4: upwards, each long latency leaves a row of shorter ones."""
    corrected = dict(counts)
    for value_us in range(2 * expected_us, max(counts) + 1):
        count = corrected.get(value_us, 0)
        made_up_us = value_us - expected_us
        while count and made_up_us > expected_us:
            corrected[made_up_us] = corrected.get(made_up_us, 0) + count
            made_up_us -= expected_us
    return corrected


@given(
    counts=st.dictionaries(st.integers(1, 2000), st.integers(1, 5), min_size=1, max_size=30),
    connections=st.integers(1, 4),
    duration_us=st.integers(2_000, 20_000),
)
def test_what_wrk_makes_up_is_taken_out_again(counts: dict[int, int], connections: int, duration_us: int) -> None:
    num_requests = sum(counts.values())
    if num_requests < connections:
        corrected = counts
    else:
        corrected = as_wrk_corrects(counts, duration_us // (num_requests // connections))
    values = without_made_up(sorted(corrected.items()), num_requests, connections, duration_us)
    assert values == tuple(sorted(counts.items()))


def test_a_wrk_that_corrects_otherwise_is_refused() -> None:
    with pytest.raises(BenchError, match="wrk 4"):
        without_made_up([(1, 1), (500, 5)], 6, 1, 600)  # expected is 100: 400, 300 and 200 are not there
