from __future__ import annotations

import msgspec
import pytest

from bench.arrivals import Arrivals, Closed, Poisson, Window
from bench.distribution import at
from bench.load.plan import LoadSpec, Second
from bench.load.summary import answer_of
from bench.record import Failure, RequestRecord
from bench.slo import parse_objectives

WINDOW = Window(warm_up_s=1.0, duration_s=2.0, cool_down_s=1.0)


def load(arrivals: Arrivals = Poisson(rate_per_s=1.0), slo: str = "", *, stream: bool = True) -> LoadSpec:  # noqa: B008
    return LoadSpec(url="", model="", arrivals=arrivals, window=WINDOW, objectives=parse_objectives(slo), stream=stream)


def record(
    scheduled_s: float, taken_s: float, *, late_s: float = 0.0, failure: Failure | None = None, events: int = 2
) -> RequestRecord:
    """A request of four tokens, whose events come half-way and at the end."""
    times = (scheduled_s + taken_s / 2, scheduled_s + taken_s)[:events]
    return RequestRecord(
        number=0,
        scheduled_s=scheduled_s,
        sent_s=scheduled_s + late_s,
        first_byte_s=times[0] if times else None,
        token_times_s=times,
        ended_s=scheduled_s + taken_s,
        status=200,
        failure=failure,
        error=None if failure is None else "seen",
        prompt_tokens=6,
        completion_tokens=4,
        max_tokens=4,
    )


def test_requests_count_by_their_arrival_and_rates_by_what_came_out() -> None:
    records = [record(0.5, 1.0), record(1.0, 0.5), record(2.9, 3.0), record(3.0, 0.1)]
    answer = answer_of(records, load(), 0.5)
    assert (answer.num_requests, answer.num_whole, answer.offered_per_s) == (2, 2, 1.0)
    assert answer.latency_ms is not None
    assert [at(answer.latency_ms, share) for share in (0.5, 1.0)] == [pytest.approx(500.0), pytest.approx(3000.0)]
    # The one of the warm-up ended in the measured time, and the last one long after it.
    assert answer.requests_per_s == 2 / 2.0
    assert answer.events_per_s == 4 / 2.0  # at 1.0, 1.25 and twice 1.5; the others came too late
    assert answer.tokens_per_s == pytest.approx((4 + 4) / 2.0)
    assert (answer.prompt_tokens, answer.completion_tokens) == (6.0, 4.0)


def test_a_miss_counts_and_never_vanishes() -> None:
    records = [record(1.0, 0.1), record(1.5, 9.0, failure="timeout", events=0), record(2.0, 0.1, failure="refused")]
    answer = answer_of(records, load(slo="e2e:1s"), 0.1)
    assert answer.failures == {"timeout": 1, "refused": 1}
    assert answer.errors == ("timeout: seen", "refused: seen")
    assert (answer.num_requests, answer.num_whole) == (3, 1)
    assert answer.goodput_per_s == 0.5
    assert answer.latency_ms is not None
    assert at(answer.latency_ms, 1.0) == pytest.approx(100.0)


def test_goodput_is_of_objectives() -> None:
    records = [record(1.0, 0.1), record(1.0, 0.4)]
    assert answer_of(records, load(slo="ttft:100ms"), 0.1).goodput_per_s == 0.5
    assert answer_of(records, load(), 0.1).goodput_per_s is None


def test_second_by_second() -> None:
    answer = answer_of([record(0.0, 0.5), record(0.1, 0.3), record(2.0, 0.25, failure="wrong")], load(), 0.1)
    assert answer.timeline == (
        Second(at_s=0, completed=2, failed=0, p99_ms=500.0),
        Second(at_s=1, completed=0, failed=0, p99_ms=None),
        Second(at_s=2, completed=0, failed=1, p99_ms=None),
    )


@pytest.mark.parametrize(("arrivals", "late_s", "cpu_share", "expected"), [
    (Poisson(rate_per_s=1.0), 0.0, 0.5, None),
    (Poisson(rate_per_s=1.0), 0.0, 0.95, "took 95% of its processor"),
    (Poisson(rate_per_s=1.0), 0.009, 0.5, None),  # less than a tenth of 100 ms
    (Poisson(rate_per_s=1.0), 0.02, 0.5, "sent 20.0 ms late or later, more than 10.0 ms"),
    (Closed(users=1), 0.02, 0.5, None),
    (Closed(users=1), 0.0, 0.95, "took 95% of its processor"),
])  # fmt: skip
def test_a_load_that_was_what_was_measured_says_so(
    arrivals: Arrivals, late_s: float, cpu_share: float, expected: str | None
) -> None:
    invalid = answer_of([record(1.0, 0.1, late_s=late_s)], load(arrivals), cpu_share).invalid
    assert (invalid is None) if expected is None else (expected in (invalid or ""))


def test_five_milliseconds_are_held_against_nobody() -> None:
    assert answer_of([record(1.0, 0.002, late_s=0.004)], load(), 0.5).invalid is None
    assert answer_of([record(1.0, 0.002, late_s=0.006)], load(), 0.5).invalid is not None


def test_nothing_measured_is_invalid() -> None:
    answer = answer_of([record(0.5, 0.1)], load(), 0.5)
    assert answer.invalid == "no request arrived in the measured time"
    assert (answer.latency_ms, answer.ttft_ms, answer.tokens_per_s) == (None, None, 0.0)
    assert answer_of([], load(), 0.5).timeline == ()


def test_what_does_not_stream_has_no_events() -> None:
    answer = answer_of([record(1.0, 0.5, events=0)], load(stream=False), 0.1)
    assert (answer.events_per_s, answer.ttft_ms, answer.tpot_ms, answer.itl_ms) == (None, None, None, None)
    assert answer.tokens_per_s == 2.0


def test_it_crosses_a_process_whole() -> None:
    answer = answer_of([record(1.0, 0.5)], load(), 0.1)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=type(answer)) == answer
