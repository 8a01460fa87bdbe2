from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.distribution import at, cdf_of
from bench.stats import percentile

SAMPLES = st.lists(st.floats(0.0, 1e3), min_size=1, max_size=3000)


@given(SAMPLES)
def test_each_point_is_the_percentile_of_its_share(samples: list[float]) -> None:
    cdf = cdf_of(samples)
    assert cdf is not None
    assert [ms for _, ms in cdf] == [percentile(samples, share) * 1e3 for share, _ in cdf]
    assert list(cdf) == sorted(cdf)
    assert cdf[-1] == (1.0, max(samples) * 1e3)
    assert at(cdf, 0.5) == percentile(samples, 0.5) * 1e3


def test_the_tail_goes_as_far_as_there_are_samples_for_it() -> None:
    few, many = cdf_of([0.001] * 150), cdf_of([0.001] * 3000)
    assert few is not None
    assert many is not None
    assert [share for share, _ in few[-2:]] == [0.99, 1.0]
    assert [share for share, _ in many[-4:]] == [0.995, 0.999, 0.9995, 1.0]


def test_there_is_none_of_no_samples() -> None:
    assert cdf_of([]) is None


def test_between_two_points_it_is_the_next_one() -> None:
    cdf = cdf_of([number / 1e3 for number in range(1, 1001)])
    assert cdf is not None
    assert at(cdf, 0.991) == pytest.approx(995.0)
