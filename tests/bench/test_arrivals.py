from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.arrivals import (
    Closed,
    Constant,
    Gamma,
    Poisson,
    Ramp,
    Step,
    Trace,
    Window,
    arrival_times,
    check_arrivals,
)
from bench.errors import BenchError

WINDOW = Window(warm_up_s=10.0, duration_s=200.0, cool_down_s=5.0)
Process = Constant | Poisson | Gamma | Ramp | Step


def gaps(arrivals: Process, seed: int = 0) -> list[float]:
    return [after - before for before, after in itertools.pairwise(arrival_times(arrivals, WINDOW, seed))]


def test_constant_arrivals_are_even_and_begin_at_once() -> None:
    window = Window(warm_up_s=0.0, duration_s=2.0, cool_down_s=0.0)
    assert list(arrival_times(Constant(rate_per_s=4.0), window, 0)) == [number / 4 for number in range(8)]


@pytest.mark.parametrize(("arrivals", "variation"), [
    (Poisson(rate_per_s=50.0), 1.0),
    (Gamma(rate_per_s=50.0, burstiness=1.0), 1.0),
    (Gamma(rate_per_s=50.0, burstiness=0.25), 2.0),
    (Gamma(rate_per_s=50.0, burstiness=16.0), 0.25),
])  # fmt: skip
def test_gaps_vary_as_their_process_says(arrivals: Process, variation: float) -> None:
    between = gaps(arrivals)
    mean = statistics.mean(between)
    assert mean == pytest.approx(1 / 50, rel=0.1)
    # Of a gamma distribution the coefficient of variation is 1 over the root of its shape.
    assert statistics.stdev(between) / mean == pytest.approx(variation, rel=0.1)


def test_a_gamma_of_shape_one_is_poisson() -> None:
    between = gaps(Gamma(rate_per_s=50.0, burstiness=1.0))
    for decile in range(1, 10):
        quantile_s = -math.log(1 - decile / 10) / 50.0  # of the exponential distribution
        assert sum(gap <= quantile_s for gap in between) / len(between) == pytest.approx(decile / 10, abs=0.02)


def counts(arrivals: Process, *borders_s: float) -> list[int]:
    times = list(arrival_times(arrivals, WINDOW, 3))
    return [sum(begin <= time_s < end for time_s in times) for begin, end in itertools.pairwise(borders_s)]


def test_a_ramp_rises_over_what_is_measured_and_stays_before_and_after() -> None:
    before, first, last, after = counts(Ramp(from_per_s=20.0, to_per_s=100.0), 0.0, 10.0, 110.0, 210.0, 215.0)
    assert before / 10 == pytest.approx(20, rel=0.3)
    assert first / 100 == pytest.approx(40, rel=0.1)
    assert last / 100 == pytest.approx(80, rel=0.1)
    assert after / 5 == pytest.approx(100, rel=0.2)


def test_steps_have_equal_parts_of_what_is_measured() -> None:
    steps = Step(rates_per_s=(10.0, 0.0, 50.0, 20.0))
    before, *parts, after = counts(steps, 0.0, 10.0, 60.0, 110.0, 160.0, 210.0, 215.0)
    assert [part / 50 for part in parts] == [pytest.approx(rate, rel=0.15) for rate in steps.rates_per_s]
    assert before / 10 == pytest.approx(10, rel=0.3)
    assert after / 5 == pytest.approx(20, rel=0.3)


@given(
    st.one_of(
        st.builds(Constant, rate_per_s=st.floats(0.01, 50)),
        st.builds(Poisson, rate_per_s=st.floats(0.01, 50)),
        st.builds(Gamma, rate_per_s=st.floats(0.01, 50), burstiness=st.floats(0.05, 50)),
        st.builds(Ramp, from_per_s=st.floats(0.0, 50), to_per_s=st.floats(0.01, 50)),
        st.builds(Step, rates_per_s=st.lists(st.floats(0.01, 50), min_size=1, max_size=4).map(tuple)),
    ),
    st.floats(0.0, 5.0),
    st.floats(0.1, 10.0),
    st.integers(),
)
def test_times_ascend_within_the_window_and_are_those_of_the_seed(
    arrivals: Process, end_s: float, duration_s: float, seed: int
) -> None:
    window = Window(warm_up_s=end_s, duration_s=duration_s, cool_down_s=end_s)
    times = list(arrival_times(arrivals, window, seed))
    assert times == sorted(times)
    assert all(0.0 <= time_s <= window.end_s * (1 + 1e-9) for time_s in times)
    assert times == list(arrival_times(arrivals, window, seed))


def test_another_seed_draws_others() -> None:
    assert gaps(Poisson(rate_per_s=5.0), 1) != gaps(Poisson(rate_per_s=5.0), 2)


@pytest.mark.parametrize(("arrivals", "message"), [
    (Closed(users=0), "users: must be above 0"),
    (Constant(rate_per_s=0.0), "rate: must be above 0"),
    (Poisson(rate_per_s=float("nan")), "rate: must be above 0"),
    (Gamma(rate_per_s=1.0, burstiness=-1.0), "burstiness: must be above 0"),
    (Ramp(from_per_s=0.0, to_per_s=0.0), "ramp: needs rates"),
    (Step(rates_per_s=()), "step: needs rates"),
    (Step(rates_per_s=(1.0, -1.0)), "step: needs rates"),
    (Trace(path="x", format="azure", speed=0.0), "speed: must be above 0"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(arrivals: Process, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        check_arrivals(arrivals)


def test_the_window_is_half_open() -> None:
    assert [WINDOW.holds(time_s) for time_s in (9.99, 10.0, 209.99, 210.0)] == [False, True, True, False]
    assert WINDOW.end_s == 215.0
