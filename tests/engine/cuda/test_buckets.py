from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.engine.cuda.buckets import Buckets


@given(max_rows=st.integers(1, 1000), rows=st.integers(1, 1100))
def test_the_smallest_bucket_that_fits_is_taken(max_rows: int, rows: int) -> None:
    buckets = Buckets(max_rows)
    assert buckets.sizes == sorted(set(buckets.sizes))
    assert buckets.sizes[-1] == max_rows
    fitting = buckets.fitting(rows)
    if rows > max_rows:
        assert fitting is None
    else:
        assert fitting == min(size for size in buckets.sizes if size >= rows)
        assert fitting < 2 * rows


@pytest.mark.parametrize(
    ("max_rows", "sizes"),
    [(1, [1]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16]), (50, [1, 2, 4, 8, 16, 32, 48, 50])],
)
def test_sizes(max_rows: int, sizes: list[int]) -> None:
    assert Buckets(max_rows).sizes == sizes
