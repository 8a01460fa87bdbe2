"""From what loads answer to points, and from points to figures."""

from __future__ import annotations

import msgspec
import pytest

from bench.arrivals import Closed, Poisson
from bench.compare import closed
from bench.compare import open as opened
from bench.compare.metrics import metrics_of
from bench.compare.points import LoadPoint
from bench.http.wrk import WrkAnswer
from bench.load.plan import LoadAnswer

NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}

ANSWER = WrkAnswer(
    num_requests=200,
    duration_us=2_000_000,
    p99_ms=9.0,
    cpu_s=0.2,
    values=((1000, 100), (2000, 98), (50_000, 2)),
    errors=NO_ERRORS,
    in_real_time=True,
)

LOADED = LoadAnswer(
    seconds=2.0,
    num_requests=20,
    num_whole=19,
    failures={"timeout": 1, "broken": 0},
    errors=(),
    num_reconnects=0,
    offered_per_s=9.7,
    requests_per_s=9.5,
    events_per_s=300.0,
    tokens_per_s=None,
    goodput_per_s=9.0,
    prompt_tokens=None,
    completion_tokens=None,
    latency_ms=((0.5, 160.00049), (1.0, 200.0)),
    ttft_ms=((0.5, 5.0), (1.0, 9.0)),
    tpot_ms=None,
    itl_ms=None,
    dispatch_delay_ms=((0.5, 0.1), (1.0, 1.5)),
    load_cpu_share=0.25,
    invalid=None,
    timeline=(),
)


def test_a_load_of_wrk() -> None:
    point = closed.point_of(ANSWER, "chat", 64, cpu_s=1.0)
    assert point.requests_per_s == 100.0
    assert point.server_cpu_us == pytest.approx(5000.0)
    assert point.server_cpu_share == 0.5
    assert point.load_cpu_share == pytest.approx(0.1)
    assert point.load_in_real_time is True
    assert dict(point.latency_ms)[0.5] == 1.0
    assert dict(point.latency_ms)[0.99] == 2.0
    assert point.latency_ms[-1] == (1.0, 50.0)
    assert (point.failures, point.invalid) == ({}, None)


def test_failures_are_no_answers() -> None:
    errors = NO_ERRORS | {"status": 20, "timeout": 10, "read": 3, "connect": 4}
    point = closed.point_of(msgspec.structs.replace(ANSWER, errors=errors), "chat", 64, cpu_s=1.0)
    assert point.requests_per_s == 85.0
    assert point.failures == {"rejected": 20, "timeout": 10, "connection": 7}


@pytest.mark.parametrize(
    ("changes", "connections", "reason"),
    [
        ({"num_requests": 0, "values": ()}, 1, "no whole answer"),
        ({}, 201, "the slowest are missing"),
        ({"cpu_s": 1.99}, 64, "what was measured"),
    ],
)
def test_a_load_that_says_nothing_of_the_server(changes: dict[str, object], connections: int, reason: str) -> None:
    point = closed.point_of(msgspec.structs.replace(ANSWER, **changes), "chat", connections, cpu_s=1.0)
    assert reason in str(point.invalid)
    assert metrics_of([point], connections) == {}


def test_an_open_loop_bears_the_rate_that_was_asked_for() -> None:
    point = opened.point_of(LOADED, "stub", Poisson(rate_per_s=10.0), 0.5)
    assert (point.connections, point.offered_per_s) == (None, 10.0)
    assert point.failures == {"timeout": 1}
    assert point.dispatch_delay_p99_ms == 1.5
    assert point.latency_ms[0] == (0.5, 160.0)
    assert metrics_of([point], 64) == {
        "stream_requests_per_s@10_per_s": 9.5,
        "stream_events_per_s@10_per_s": 300.0,
        "stream_goodput_per_s@10_per_s": 9.0,
        "stream_p50_ms@10_per_s": 160.0,
        "stream_p99_ms@10_per_s": 200.0,
        "stream_ttft_p50_ms@10_per_s": 5.0,
        "stream_ttft_p99_ms@10_per_s": 9.0,
    }


def test_figures_of_the_model_have_names_of_their_own() -> None:
    point = opened.point_of(LOADED, "model", Closed(users=2), 0.5)
    assert (point.connections, point.offered_per_s) == (2, None)
    assert metrics_of([point], 64)["model_stream_ttft_p50_ms@2"] == 5.0


def test_the_cost_of_a_chat_is_that_at_the_busy_connections() -> None:
    chats = [closed.point_of(ANSWER, "chat", number, cpu_s=number / 64) for number in (1, 64, 100)]
    assert metrics_of(chats, 64)["cpu_us"] == pytest.approx(5000.0)
    assert {"chat_p99_ms@1", "chat_p99_ms@64", "chat_p99_ms@100"} <= set(metrics_of(chats, 64))


def test_a_point_survives_its_file() -> None:
    point = opened.point_of(LOADED, "stub", Poisson(rate_per_s=10.0), 0.5)
    assert msgspec.json.decode(msgspec.json.encode(point), type=LoadPoint) == point
