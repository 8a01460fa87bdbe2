"""Records for tests."""

from __future__ import annotations

import datetime as dt
from typing import Any

from handler.boot import Phase
from handler.requestlog.boot_record import BootRecord
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


def make_boot(**fields: Any) -> BootRecord:
    """A boot that went well; everything can be overridden."""
    values: dict[str, Any] = {
        "id": new_id(),
        "instance_id": "i-1",
        "started_at": ARRIVAL,
        "version": "0.1.0",
        "model_name": "smollm2-135m",
        "image": "pilotlight:1",
        "devices": ["cpu"],
        "ready_s": 1.25,
        "is_cold": False,
        "read_bytes": 4096,
        "phases": [Phase("interpreter", 0.0, 0.1), Phase("weights", 0.5, 1.0, "cpu")],
    }
    return BootRecord(**values | fields)


def records_of(batch: Batch) -> list[Record]:
    """The records of requests that a spool gave out."""
    return [entry for entry in _entries_of(batch) if isinstance(entry, Record)]


def boots_of(batch: Batch) -> list[BootRecord]:
    """The records of boots that a spool gave out."""
    return [entry for entry in _entries_of(batch) if isinstance(entry, BootRecord)]


def _entries_of(batch: Batch) -> list[Record | BootRecord]:
    return [decode(line) for payload in batch.payloads for line in payload.splitlines()]
