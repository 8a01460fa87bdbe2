from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.requestlog.database import LogDatabase
from handler.requestlog.facts import Facts
from handler.requestlog.line import decode, encode
from handler.requestlog.reader import read_logs
from handler.requestlog.record import Record, Status

RECENT_S = st.floats(1.6e9, 4e9)


def make_facts(number: int = 0, **fields: Any) -> Facts:
    values: dict[str, Any] = {
        "request_id": f"req-{number}",
        "endpoint": "/v1/chat/completions",
        "salt": f"{number:015x}",
        "created_s": 1.7e9 + number / 7,
        "start_s": 1234.5 + number / 3,
    }
    return Facts(**values | fields)


def full_facts(number: int) -> Facts:
    """Facts of which a value in every column follows."""
    start_s = 99.25 + number
    return make_facts(
        number,
        start_s=start_s,
        end_s=start_s + 0.9001,
        first_scheduled_s=start_s + 0.00125,
        first_token_s=start_s + 1 / 3,
        status=Status.TIMEOUT,
        model_name="smollm2-135m",
        api_key_id="key-1",
        stream=True,
        http_status=504,
        finish_reason="stop",
        error_type="timeout",
        error_message="took longer than 300 s",
        prompt_tokens=120,
        cached_tokens=64,
        completion_tokens=80,
        cold_start=False,
        instance_id="i-1",
        metadata={"a": ['"', "\\"]},
        prompt="only text",
        completion="two\nlines",
    )


def test_facts_survive_as_their_record() -> None:
    facts = full_facts(1)
    record = facts.to_record()
    assert all(getattr(record, name) is not None for name in record.__struct_fields__)
    assert decode(encode([facts])) == record
    assert (record.total_tokens, record.status) == (200, Status.TIMEOUT)
    assert (record.queue_ms, record.duration_ms) == pytest.approx((1.25, 900.1))


async def test_postgres_makes_the_same_of_facts(postgres_url: str, log_connection: Any) -> None:
    facts = [full_facts(0), *map(make_facts, range(1, 200)), make_facts(200, prompt_tokens=1)]
    facts += [make_facts(201, created_s=0.0), make_facts(202, created_s=1.7e9 + 1e-6, salt="f" * 15)]
    database = await LogDatabase.open(postgres_url, pool_size=1, connect_timeout_s=10, timeout_s=10)
    written = await database.write([encode(facts)])
    await database.close()
    assert (written.new_rows, written.refused) == (len(facts), ())
    rows = {row.id: row for row in await read_logs(log_connection, 1000)}
    assert rows == {record.id: record for record in map(Facts.to_record, facts)}


@given(RECENT_S, RECENT_S)
def test_ids_are_version_7_and_in_the_order_of_arrival(one_s: float, other_s: float) -> None:
    one, other = make_facts(15, created_s=one_s).id, make_facts(0, created_s=other_s).id
    assert {one.version, other.version} == {7}
    assert {one.variant, other.variant} == {uuid.RFC_4122}
    assert one.int >> 80 == int(one_s * 1000)
    if one_s - other_s > 1e-6:
        assert one > other


def test_a_record_that_is_whole_is_a_line_too() -> None:
    record = full_facts(3).to_record()
    assert isinstance(record, Record)
    assert decode(encode([record])) == record
