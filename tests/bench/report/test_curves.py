from __future__ import annotations

import msgspec
import pytest

from bench.compare.points import LoadPoint
from bench.errors import BenchError
from bench.report.curves import closed_panels, open_panels
from bench.report.distributions import LATENCY, TPOT, distribution_panels
from bench.report.numbers import NOTHING
from bench.report.samples import Sample, at_share, load_of, samples_of
from bench.report.timeline import timeline_panels
from tests.bench.report.results import RATES, STACKS, comparison

POINT = LoadPoint(
    engine="stub", workload="stream", offered_per_s=10.0, seconds=10.0, requests_per_s=10.0, goodput_per_s=0.0,
    latency_ms=((0.5, 10.0), (1.0, 20.0)),
)  # fmt: skip


def sample(stack: str, round_number: int, **changes: object) -> Sample:
    return Sample(stack, round_number, msgspec.structs.replace(POINT, **changes))


def test_a_line_is_the_median_of_the_rounds_with_its_interval() -> None:
    samples = [
        sample("flask", number, offered_per_s=rate, requests_per_s=per_s)
        for rate in (10.0, 20.0)
        for number, per_s in enumerate((9.0, 8.0, 7.0))
    ]
    panel = open_panels(samples, "stub")[0]
    dot = panel.plot.lines[0].dots[0]
    assert (dot.x, dot.y, dot.low, dot.high) == (10.0, 8.0, 7.0, 9.0)
    assert panel.table.rows[0][1].text == "8.00"
    assert panel.table.rows[0][1].small == f"7.00 {NOTHING} 9.00"


def test_an_invalid_point_is_never_drawn_and_parts_the_line() -> None:
    samples = [sample("flask", 0, offered_per_s=rate, requests_per_s=rate) for rate in (10.0, 20.0, 40.0)]
    samples[1] = sample("flask", 0, offered_per_s=20.0, requests_per_s=999.0, invalid="the load was busy")
    panel = open_panels(samples, "stub")[0]
    (line,) = panel.plot.lines
    assert [[dot.x for dot in run] for run in line.runs] == [[10.0], [40.0]]
    (void,) = panel.plot.voids
    assert (void.x, void.note) == (20.0, "Flask, 20 arrivals/s: invalid, the load was busy")
    assert panel.table.rows[1][1].text == NOTHING
    assert panel.table.rows[1][1].small == "invalid"
    assert "999" not in repr(panel)


def test_a_round_that_is_invalid_leaves_the_others() -> None:
    samples = [sample("flask", number, offered_per_s=rate) for rate in (10.0, 20.0) for number in range(3)]
    samples.append(sample("flask", 3, offered_per_s=20.0, requests_per_s=999.0, invalid="late"))
    panel = open_panels(samples, "stub")[0]
    assert panel.plot.lines[0].dots[1].y == 10.0
    assert panel.plot.voids == ()
    assert panel.plot.lines[0].dots[1].note == f"Flask, 20 arrivals/s: 10.0 (10.0 {NOTHING} 10.0); 1 rounds invalid"


def test_what_was_not_measured_has_no_panel() -> None:
    bare = [sample("flask", 0, offered_per_s=rate, goodput_per_s=None) for rate in (10.0, 20.0)]
    assert [panel.plot.key for panel in open_panels(bare, "stub")] == [
        "stub-stream-throughput-arrivals", "stub-stream-p99-arrivals",
    ]  # fmt: skip
    assert open_panels(bare, "model") == ()
    assert open_panels(bare[:1], "stub") == ()
    assert closed_panels(bare, "stub") == ()
    assert distribution_panels(bare, "stub", "stream", TPOT, is_open=True) == ()
    assert timeline_panels(bare) == ()


def test_all_invalid_is_nothing_to_draw() -> None:
    samples = [sample("flask", 0, offered_per_s=rate, invalid="late") for rate in (10.0, 20.0)]
    assert open_panels(samples, "stub") == ()
    assert distribution_panels(samples, "stub", "stream", LATENCY, is_open=True) == ()


def test_a_distribution_is_drawn_no_further_than_a_request_lies_beyond() -> None:
    cdf = tuple((share / 100, float(share)) for share in range(1, 101))
    (panel,) = distribution_panels(
        [sample("flask", 0, latency_ms=cdf, requests_per_s=2.0)], "stub", "stream", LATENCY, is_open=True
    )
    (line,) = panel.plot.lines
    assert max(dot.y for dot in line.dots) == 0.95
    assert [(dot.x, dot.y) for dot in line.dots if dot.note] == [(50.0, 0.5), (90.0, 0.9)]
    assert panel.plot.y.high == 0.99
    assert [cell.text for cell in panel.table.rows[0]] == ["Flask", "50.0", "90.0", "99.0", "100", "100"]


def test_a_line_of_survivors_says_so() -> None:
    many = sample("flask", 0, requests_per_s=1.0, failures={"timeout": 90})
    few = sample("fastapi", 0, failures={"timeout": 1})
    (panel,) = distribution_panels([many, few], "stub", "stream", LATENCY, is_open=True)
    assert panel.note == "Not all requests ended whole, and only those that did are drawn: Flask 10 %."
    (panel,) = distribution_panels([few], "stub", "stream", LATENCY, is_open=True)
    assert panel.note is None


def test_the_lightest_a_middle_and_the_heaviest_load_are_shown() -> None:
    samples = samples_of(comparison(num_rounds=1))
    panels = distribution_panels(samples, "stub", "chat", LATENCY, is_open=False)
    assert [panel.plot.title for panel in panels] == [
        "Latency, 1 connection", "Latency, 100 connections", "Latency, 1,000 connections",
    ]  # fmt: skip


def test_the_timeline_is_of_the_heaviest_load_with_valid_points_of_all() -> None:
    panels = timeline_panels(samples_of(comparison()))
    assert [panel.plot.title for panel in panels] == [
        "Throughput by second, 800 arrivals/s", "99th percentile by second, 800 arrivals/s",
    ]  # fmt: skip
    stalled = next(line for line in panels[1].plot.lines if line.stack.name == "flask")
    assert [[dot.x for dot in run] for run in stalled.runs] == [[0.0, 1.0, 2.0, 3.0], [5.0, 6.0, 7.0, 8.0, 9.0]]


def test_all_points_are_found() -> None:
    samples = samples_of(comparison(num_rounds=2))
    assert {found.stack for found in samples} == set(STACKS)
    assert {load_of(s.point) for s in samples if s.point.engine == "stub" and s.point.offered_per_s} == set(RATES)
    assert at_share(POINT.latency_ms, 0.5) == 10.0
    assert at_share(POINT.latency_ms, 0.51) == 20.0
    assert at_share((), 0.5) is None


def test_points_that_are_none_are_refused_by_name() -> None:
    result = comparison(num_rounds=1, stacks=("flask",))
    (entry,) = result.rounds
    broken = msgspec.structs.replace(entry, details={"points": [{"engine": "steam"}]})
    with pytest.raises(BenchError, match=r"the points of flask, round 1 cannot be read: .*engine"):
        samples_of(msgspec.structs.replace(result, rounds=(broken,)))
    with pytest.raises(BenchError, match="neither connections nor arrivals"):
        load_of(msgspec.structs.replace(POINT, offered_per_s=None))
