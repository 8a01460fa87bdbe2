from __future__ import annotations

import random

import pytest
from prometheus_client import CollectorRegistry

from handler.instruments import Distributions

BOUNDS = (0.1, 0.5, 2.0)


@pytest.mark.parametrize("number", [0, 1, 511, 512, 2000])
def test_every_value_is_in_its_bucket_whenever_it_is_looked_for(number: int) -> None:
    registry = CollectorRegistry()
    distribution = Distributions("gap_seconds", "Gaps.", ["who"], BOUNDS, registry).labels("a")
    drawn = random.Random(number)
    values: list[float] = []
    for _ in range(number):
        value, times = drawn.choice([*BOUNDS, 0.0, 3.0, drawn.random()]), drawn.choice([1, 1, 1, 4])
        distribution.observe(value, times)
        values += [value] * times
        if drawn.random() < 0.01:
            registry.get_sample_value("gap_seconds_sum", {"who": "a"})
    for bound in BOUNDS:
        found = registry.get_sample_value("gap_seconds_bucket", {"who": "a", "le": str(bound)})
        assert found == sum(value <= bound for value in values)
    assert registry.get_sample_value("gap_seconds_count", {"who": "a"}) == len(values)
    assert registry.get_sample_value("gap_seconds_sum", {"who": "a"}) == pytest.approx(sum(values))
