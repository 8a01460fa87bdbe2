from __future__ import annotations

import math
import random
import statistics

import pytest

from bench.errors import BenchError
from bench.lengths import Fixed, Length, LogNormal, Uniform, draw, parse_length


def drawn(length: Length) -> list[int]:
    rng = random.Random(0)
    return [draw(length, rng) for _ in range(4000)]


def test_fixed() -> None:
    assert set(drawn(Fixed(tokens=7))) == {7}


def test_uniform_has_both_ends() -> None:
    lengths = drawn(Uniform(low=3, high=6))
    assert {lengths.count(length) > 900 for length in (3, 4, 5, 6)} == {True}
    assert set(lengths) == {3, 4, 5, 6}


def test_log_normal_has_its_median_and_its_sigma() -> None:
    lengths = drawn(LogNormal(median=200.0, sigma=0.5))
    assert statistics.median(lengths) == pytest.approx(200, rel=0.05)
    assert statistics.stdev(map(math.log, lengths)) == pytest.approx(0.5, rel=0.05)


def test_a_bound_is_drawn_below_and_nothing_piles_up_at_it() -> None:
    lengths = drawn(LogNormal(median=200.0, sigma=1.0, most=300))
    assert max(lengths) <= 300
    assert lengths.count(300) < 60


def test_an_answer_has_at_least_one_token() -> None:
    assert min(drawn(LogNormal(median=1.0, sigma=2.0))) == 1


@pytest.mark.parametrize(("text", "length"), [
    ("64", Fixed(tokens=64)),
    ("uniform:64:256", Uniform(low=64, high=256)),
    ("lognormal:64:0.5", LogNormal(median=64.0, sigma=0.5)),
    ("lognormal:64.5:0:512", LogNormal(median=64.5, sigma=0.0, most=512)),
])  # fmt: skip
def test_command_lines(text: str, length: Length) -> None:
    assert parse_length(text, "prompt-tokens") == length


@pytest.mark.parametrize("text", ["", "x", "0", "uniform:1", "uniform:9:3", "uniform:0:3", "lognormal:64", "64:1",
                                  "lognormal:0.5:1", "lognormal:64:0.5:32", "-1", "uniform:1.5:3"])  # fmt: skip
def test_what_is_no_length_is_refused_by_name(text: str) -> None:
    with pytest.raises(BenchError, match=r"^prompt-tokens: "):
        parse_length(text, "prompt-tokens")
