from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import bootstrap_interval, percentile, summarise

SAMPLES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(SAMPLES)
def test_a_summary_is_of_its_samples(samples: list[float]) -> None:
    summary = summarise(samples)
    assert summary.low == min(samples)
    assert summary.high == max(samples)
    assert summary.median == statistics.median(samples)
    assert summary.num_samples == len(samples)
    if len(samples) < 3:
        assert summary.interval is None
    else:
        assert summary.interval is not None
        low, high = summary.interval
        assert summary.low <= low <= high <= summary.high


@given(SAMPLES, st.floats(0.0, 1.0, exclude_min=True))
def test_a_percentile_is_a_sample_with_that_share_below_it(samples: list[float], share: float) -> None:
    found = percentile(samples, share)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= share * len(samples) - 1e-9
    assert sum(sample < found for sample in samples) < share * len(samples)


def test_the_interval_narrows_around_what_most_samples_say() -> None:
    few = bootstrap_interval([1.0, 2.0, 3.0])
    many = bootstrap_interval([1.0, *[2.0] * 30, 3.0])
    assert few == (1.0, 3.0)
    assert many == (2.0, 2.0)
    assert bootstrap_interval([1.0, 2.0, 3.0]) == few
    low, high = bootstrap_interval([float(number) for number in range(101)])
    assert 37 < low < 43
    assert 57 < high < 63


def test_nothing_is_said_of_no_samples() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise([])
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], 0.0)
