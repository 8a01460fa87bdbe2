from __future__ import annotations

import msgspec
import pytest

from bench.record import RequestRecord

RECORD = RequestRecord(
    number=3,
    scheduled_s=1.0,
    sent_s=1.5,
    first_byte_s=1.75,
    token_times_s=(2.0, 2.25, 3.0),
    ended_s=3.5,
    status=200,
    failure=None,
    error=None,
    prompt_tokens=9,
    completion_tokens=5,
    max_tokens=5,
)


def test_times_count_from_the_arrival_whenever_it_was_sent() -> None:
    assert RECORD.dispatch_delay_s == 0.5
    assert RECORD.ttft_s == 1.0
    assert RECORD.e2e_s == 2.5
    assert RECORD.gaps_s == [0.25, 0.75]


def test_time_per_token_is_over_tokens_and_not_over_events() -> None:
    assert RECORD.tpot_s == pytest.approx(1.0 / 4)
    assert msgspec.structs.replace(RECORD, completion_tokens=None).tpot_s == pytest.approx(1.0 / 2)


def test_what_did_not_come_is_none() -> None:
    nothing = msgspec.structs.replace(RECORD, token_times_s=(), first_byte_s=None)
    assert (nothing.ttft_s, nothing.tpot_s, nothing.gaps_s) == (None, None, [])
    assert msgspec.structs.replace(RECORD, token_times_s=(2.0,)).tpot_s is None
