from __future__ import annotations

import pytest

from bench.report.numbers import NOTHING, change, exact, figure, mebibytes, number, percent, short, times
from bench.stats import Summary


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.0, "1.00"), (34.56, "34.6"), (345.6, "346"), (45_489.4, "45,489")],
)
def test_a_measured_figure_has_three_digits_or_all_before_the_point(value: float, text: str) -> None:
    assert number(value) == text


def test_a_stated_figure_has_its_own_digits() -> None:
    assert [exact(value) for value in (12.0, 38_000, 2.5, 1 / 4)] == ["12", "38,000", "2.5", "0.25"]


def test_ticks_are_short() -> None:
    assert [short(value) for value in (0.05, 5, 999, 1500, 2e6, 3e9)] == ["0.05", "5", "999", "1.5k", "2M", "3G"]


def test_shares_ratios_and_sizes() -> None:
    assert [percent(share) for share in (0.5, 0.99, 0.999)] == ["50 %", "99 %", "99.9 %"]
    assert times(4.341) == "4.34\N{MULTIPLICATION SIGN}"
    assert [change(ratio) for ratio in (1.035, 0.996, 1.0)] == ["+3.5 %", "-0.4 %", "+0.0 %"]
    assert [mebibytes(size) for size in (2048, 3 * 2**20)] == ["2 KiB", "3.0 MiB"]


def test_too_few_rounds_give_no_interval_and_no_round_gives_nothing() -> None:
    assert figure(None).text == NOTHING
    assert figure(Summary(2e6, 1e6, 3e6, None, 2), 1e6).interval is None
    found = figure(Summary(2e6, 1e6, 3e6, (1.5e6, 2.5e6), 3), 1e6)
    assert (found.text, found.interval) == ("2.00", f"1.50 {NOTHING} 2.50")
