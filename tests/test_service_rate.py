from __future__ import annotations

import pytest

from handler.service_rate import ServiceRate


def test_nothing_is_said_before_anything_was_served() -> None:
    assert ServiceRate().duration_s(100, 4) is None


def test_a_full_batch_serves_what_its_places_do_together() -> None:
    """Four at once, each 10 tokens a second: 40 a second; before 100 tokens are through, a sequence of 20 must be."""
    rate = ServiceRate()
    for _ in range(10):
        rate.learn(1, 20, 2.0)
    assert rate.duration_s(100, 4) == pytest.approx((100 + 20) / 40)
    assert rate.duration_s(100, 1) == pytest.approx((100 + 20) / 10)


def test_the_sequences_of_one_request_held_a_place_each() -> None:
    together, apart = ServiceRate(), ServiceRate()
    together.learn(4, 80, 2.0)
    for _ in range(4):
        apart.learn(1, 20, 2.0)
    assert together.duration_s(100, 4) == pytest.approx(apart.duration_s(100, 4))


def test_recent_requests_count_more() -> None:
    rate = ServiceRate()
    for _ in range(300):
        rate.learn(1, 20, 1.0)
    for _ in range(300):
        rate.learn(1, 20, 4.0)
    assert rate.duration_s(0, 1) == pytest.approx(4.0, rel=0.05)
