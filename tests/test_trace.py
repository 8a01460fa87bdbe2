from __future__ import annotations

import uuid

import pytest

from handler.errors import (
    AuthenticationError,
    ClientDisconnectedError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    PilotlightError,
    StoppingError,
)
from handler.requestlog.record import Status
from handler.trace import RequestTrace, header


def trace() -> RequestTrace:
    return RequestTrace("id-1", "/v1/completions", cold_start=True)


def test_what_did_not_happen_is_absent() -> None:
    made = trace()
    record = made.to_record()
    assert (record.request_id, record.endpoint, record.cold_start) == ("id-1", "/v1/completions", True)
    assert record.status is Status.SUCCESS
    assert isinstance(record.id, uuid.UUID)
    assert record.id.version == 7
    assert record.created_at == made.created_at
    known = {"id", "request_id", "endpoint", "cold_start", "status", "created_at"}
    for name in set(record.__struct_fields__) - known:
        assert getattr(record, name) is None, name


def test_times_count_from_arrival_in_milliseconds() -> None:
    made = trace()
    made.first_scheduled_s = made.start_s + 0.25
    made.first_token_s = made.start_s + 1.5
    record = made.to_record()
    assert record.queue_ms == pytest.approx(250)
    assert record.ttft_ms == pytest.approx(1500)


def test_the_total_needs_both_parts() -> None:
    made = trace()
    made.prompt_tokens = 3
    assert made.to_record().total_tokens is None
    made.completion_tokens = 4
    assert made.to_record().total_tokens == 7


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequestError("x"), Status.ERROR),
        (EngineError("x"), Status.ERROR),
        (ZeroDivisionError("x"), Status.ERROR),
        (AuthenticationError("x"), Status.REJECTED),
        (OverloadedError("x"), Status.REJECTED),
        (StoppingError("x"), Status.REJECTED),
        (DeadlineExceededError("x"), Status.TIMEOUT),
        (ClientDisconnectedError("x"), Status.CANCELLED),
    ],
)
def test_an_error_decides_the_status(error: Exception, status: Status) -> None:
    made = trace()
    made.fail(error)
    record = made.to_record()
    assert (record.status, record.error_type) == (status, type(error).__name__)
    assert record.error_message == ("x" if isinstance(error, PilotlightError) else None)  # of a defect nothing is told


def test_a_request_cut_off_in_mid_answer_was_not_rejected() -> None:
    made = trace()
    made.http_status = 200
    made.fail(StoppingError("x"))
    assert made.to_record().status is Status.ERROR


def test_the_first_reason_stays() -> None:
    made = trace()
    made.fail(DeadlineExceededError("x"))
    made.fail(ClientDisconnectedError("y"))
    assert made.to_record().status is Status.TIMEOUT


def test_what_comes_after_the_end_changes_nothing() -> None:
    made = trace()
    made.end_s = made.start_s + 1
    made.fail(ClientDisconnectedError("x"))
    record = made.to_record()
    assert (record.status, record.error_type, record.duration_ms) == (Status.SUCCESS, None, pytest.approx(1000))


def test_of_headers_with_the_same_name_the_first_counts() -> None:
    scope = {"headers": [(b"authorization", b"one"), (b"x-y", b"\xe9"), (b"authorization", b"two")]}
    assert [header(scope, name) for name in (b"authorization", b"x-y", b"host")] == ["one", "\xe9", None]
