from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.scales import NARROWEST_PX, Scale, Tick, fitted, from_zero, logarithmic, spaced

positive = st.floats(min_value=1e-6, max_value=1e9)


@given(st.lists(positive, min_size=1))
def test_all_values_and_all_ticks_lie_on_the_axis(values: list[float]) -> None:
    for scale in (fitted(values), from_zero(values), logarithmic(values)):
        ticks = [tick.value for tick in scale.ticks()]
        assert all(-1e-9 <= scale.share(value) <= 1 + 1e-9 for value in [*values, *ticks])
        assert 1 <= len(ticks) <= 8
        assert ticks == sorted(set(ticks))


@given(st.lists(positive, min_size=2, unique=True))
def test_no_two_labels_touch_on_a_phone(values: list[float]) -> None:
    scale = logarithmic(values)
    kept = spaced(scale, [Tick(value, f"{value:.3g}") for value in sorted(values)])
    assert kept[-1].value == max(values)
    for before, after in itertools.pairwise(kept):
        apart_px = (scale.share(after.value) - scale.share(before.value)) * NARROWEST_PX
        assert apart_px > 6 * (len(before.label) + len(after.label)) / 2


def test_an_axis_is_logarithmic_only_for_positive_values_far_apart() -> None:
    assert fitted([1.0, 30.0]).kind == "log"
    assert fitted([10.0, 30.0]) == Scale("linear", 0.0, 50.0)
    assert fitted([0.0, 30_000.0]).kind == "linear"
    assert fitted([]).kind == "linear"


def test_a_few_decades_have_ticks_between_them() -> None:
    assert [tick.label for tick in Scale("log", 300.0, 30_000.0).ticks()] == [
        "500", "1k", "2k", "5k", "10k", "20k",
    ]  # fmt: skip
    assert [tick.label for tick in Scale("log", 0.1, 1e5).ticks()] == ["0.1", "1", "10", "100", "1k", "10k", "100k"]


def test_the_tail_has_as_much_room_as_the_rest() -> None:
    scale = Scale("tail", 0.0, 0.999)
    assert [round(scale.share(share), 3) for share in (0.0, 0.9, 0.99, 0.999)] == [0.0, 0.333, 0.667, 1.0]
    assert [tick.label for tick in scale.ticks()] == ["0 %", "50 %", "90 %", "99 %", "99.9 %"]


def test_nothing_positive_has_no_logarithm() -> None:
    with pytest.raises(ValueError, match="positive"):
        logarithmic([0.0])
