from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.history.otava import ChangePoint, find_change_points
from tests.bench.history.series import noisy, stepped


def find(
    series: list[list[float]], otava: Path, *, min_magnitude: float = 0.01, max_p_value: float = 0.001
) -> list[list[ChangePoint]]:
    return find_change_points(series, otava, min_magnitude=min_magnitude, max_p_value=max_p_value)


def test_a_step_is_found_where_it_is_whatever_the_unit(otava: Path) -> None:
    microseconds = [value * 4e-5 for value in stepped(noisy(60, seed=1), at=40, by=1.05)]
    large = [value / 4e-5 * 1e6 for value in microseconds]
    steady = noisy(60, seed=2)
    small, big, none = find([microseconds, large, steady], otava)
    assert len(small) == len(big) == 1
    assert abs(small[0].index - 40) <= 1
    assert small[0].mean_before == pytest.approx(4e-5, rel=0.02)
    assert small[0].mean_after / small[0].mean_before == pytest.approx(1.05, abs=0.02)
    assert big[0].mean_before == pytest.approx(1e6, rel=0.02)
    assert none == []


def test_counts_without_noise_are_no_difficulty(otava: Path) -> None:
    constant, zero, step = [1e9] * 30, [0.0] * 30, [1e9] * 25 + [1.02e9] * 5
    nothing, none, points = find([constant, zero, step], otava)
    assert (nothing, none) == ([], [])
    assert [point.index for point in points] == [25]
    assert points[0].mean_after == pytest.approx(1.02e9, rel=1e-5)


def test_what_is_less_sure_or_smaller_than_asked_for_is_left_out(otava: Path) -> None:
    step = stepped(noisy(60, seed=1), at=40, by=1.05)
    assert find([step], otava, min_magnitude=0.1) == [[]]
    assert find([step], otava, max_p_value=1e-30) == [[]]


def test_without_otava_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="make otava"):
        find([[1.0, 2.0]], tmp_path / "otava")


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo 'ERROR: no' >&2; exit 3", "ended with 3: ERROR: no"),
        ("echo 'ERROR: column not found' >&2", "left out 1 series: ERROR: column not found"),
        ("echo hello", "printed what is no report"),
        ("""echo '{"1": []}'""", "said nothing of series 0"),
    ],
)
def test_a_program_that_does_not_do_its_work_is_no_good_end(tmp_path: Path, script: str, complaint: str) -> None:
    program = tmp_path / "otava"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with pytest.raises(BenchError, match=complaint):
        find([[1.0, 2.0]], program)
