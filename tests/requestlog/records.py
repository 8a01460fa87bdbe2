"""Records for tests."""

from __future__ import annotations

import datetime as dt
from typing import Any

from handler.requestlog.line import decode
from handler.requestlog.record import Record, Status, new_id
from handler.requestlog.spool import Batch

ARRIVAL = dt.datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=dt.UTC)


def make_record(number: int = 0, **fields: Any) -> Record:
    """A record whose `request_id` and `created_at` tell its number; everything else can be overridden."""
    values: dict[str, Any] = {
        "id": new_id(),
        "request_id": f"req-{number}",
        "created_at": ARRIVAL + dt.timedelta(milliseconds=number),
        "endpoint": "/v1/chat/completions",
        "status": Status.SUCCESS,
    }
    return Record(**values | fields)


def full_record() -> Record:
    """A record that has a value in every column."""
    return make_record(
        7,
        model_name="smollm2-135m",
        api_key_id="key-1",
        stream=True,
        status=Status.TIMEOUT,
        http_status=504,
        finish_reason="stop",
        error_type="timeout",
        error_message="took longer than 300 s",
        prompt_tokens=120,
        cached_tokens=64,
        completion_tokens=80,
        total_tokens=200,
        queue_ms=1.25,
        ttft_ms=40.5,
        duration_ms=900.125,
        cold_start=False,
        instance_id="i-1",
        metadata={"user": "ü", "nested": {"list": [1, 2.5, None, True, 1 << 70]}},
        prompt=[{"role": "user", "content": "hi"}],
        completion="hello",
    )


def records_of(batch: Batch) -> list[Record]:
    """The records that a spool gave out."""
    return [decode(line) for payload in batch.payloads for line in payload.splitlines()]
