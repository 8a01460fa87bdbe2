from __future__ import annotations

import msgspec
import pytest

from bench.soak.balance import Line, Rest, Row, balance_sheet, is_balanced
from bench.soak.client import Fate, Sent
from bench.soak.samples import Sample, rss_slope_bytes_per_s

MIB = 2**20
METRICS = {
    "http_requests_active": 1.0,
    "num_requests_running": 0.0,
    "num_requests_waiting": 0.0,
    "kv_cache_usage_ratio": 0.0,
    "request_log_spooled_records": 0.0,
    "request_log_rejected_records_total": 0.0,
}
REST = Rest(metrics=METRICS, exit_code=0, database_connections=3)
SENT = [
    Sent(request_id="a", kind="chat", fate=Fate.ANSWERED, status=200, seconds=0.1),
    Sent(request_id="b", kind="wrong key", fate=Fate.REFUSED, status=401, seconds=0.1),
    Sent(request_id="c", kind="chat", fate=Fate.CANCELLED, status=None, seconds=0.1),
    Sent(request_id="d", kind="chat", fate=Fate.CANCELLED, status=None, seconds=0.1, has_head=False),
]
ROWS = [Row("a", "success"), Row("b", "rejected"), Row("c", "cancelled")]


def sample(time_s: float, rss_mib: float = 500.0, descriptors: int = 20) -> Sample:
    return Sample(time_s=time_s, rss_bytes=int(rss_mib * MIB), num_descriptors=descriptors, num_threads=7)


SAMPLES = [sample(time_s) for time_s in range(9)]


def bad_lines(
    sent: list[Sent] = SENT,
    rows: list[Row] = ROWS,
    samples: list[Sample] = SAMPLES,
    after: Sample = SAMPLES[-1],
    rest: Rest = REST,
) -> list[str]:
    sheet = balance_sheet(sent, rows, samples, SAMPLES[0], after, rest)
    bad = [line.name for line in sheet if line.is_good is False]
    assert is_balanced(sheet) is not bool(bad)
    return bad


def test_good_books_balance() -> None:
    assert bad_lines() == []


def test_lines_say_what_was_counted() -> None:
    sheet = balance_sheet(SENT, ROWS, SAMPLES, SAMPLES[0], SAMPLES[-1], REST)
    assert sheet[0] == Line(name="requests sent", value="4")
    assert {line.name: line.value for line in sheet}["whole responses with a row"] == "2 of 2"


def test_a_request_that_was_neither_answered_nor_refused_is_told() -> None:
    broken = msgspec.structs.replace(SENT[0], request_id="e", fate=Fate.BROKEN, problem="cut off")
    sheet = balance_sheet([*SENT, broken], ROWS, SAMPLES, SAMPLES[0], SAMPLES[-1], REST)
    (line,) = [line for line in sheet if line.is_good is False]
    assert line.value == "1; 1 x chat: cut off"


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (ROWS[1:], "whole responses with a row"),
        ([*ROWS, ROWS[0]], "requests with several rows"),
        ([*ROWS, Row("x", "success")], "rows of requests never sent"),
        ([*ROWS, Row("d", "cancelled")], "rows of requests never sent"),
        ([Row("a", "cancelled"), *ROWS[1:]], "rows that tell another end than the client"),
        ([ROWS[0], Row("b", "success"), ROWS[2]], "rows that tell another end than the client"),
    ],
)
def test_rows_that_do_not_fit_are_found(rows: list[Row], name: str) -> None:
    assert bad_lines(rows=rows) == [name]


def test_nothing_answered_is_no_soak() -> None:
    assert bad_lines(sent=SENT[1:], rows=ROWS[1:]) == ["answered whole"]


def test_growing_memory_is_found_after_the_warm_up_only() -> None:
    early = [sample(time_s, min(100.0 * time_s, 300.0)) for time_s in range(13)]
    assert bad_lines(samples=early) == []
    assert bad_lines(samples=[sample(time_s, 500 + 3 * time_s) for time_s in range(13)]) == [
        "memory's slope after the first quarter"
    ]


def test_one_burst_is_no_slope() -> None:
    samples = [sample(time_s, 900.0 if time_s == 7 else 500.0) for time_s in range(9)]
    assert rss_slope_bytes_per_s(samples) == 0.0


def test_one_sample_has_no_slope() -> None:
    with pytest.raises(ValueError, match="no slope"):
        rss_slope_bytes_per_s(SAMPLES[:1])


def test_left_descriptors_are_found_beyond_those_of_the_database() -> None:
    assert bad_lines(after=sample(9, descriptors=23)) == []
    assert bad_lines(after=sample(9, descriptors=24)) == ["descriptors at start, peak, end"]


@pytest.mark.parametrize("name", [name for name in METRICS if name != "http_requests_active"])
def test_what_is_left_at_rest_is_found(name: str) -> None:
    assert len(bad_lines(rest=msgspec.structs.replace(REST, metrics=METRICS | {name: 0.5}))) == 1


def test_open_requests_and_a_bad_end_are_found() -> None:
    assert bad_lines(rest=msgspec.structs.replace(REST, metrics=METRICS | {"http_requests_active": 2.0})) == [
        "HTTP requests still open"
    ]
    assert bad_lines(rest=msgspec.structs.replace(REST, exit_code=-9)) == ["exit code after SIGTERM"]
