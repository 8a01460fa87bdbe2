"""The SQL by which lines of the spool become rows: pure text, made once. `line` says what a line holds.

Lines are copied into a staging table as they are; PostgreSQL takes them apart, by the fields' names: absent ones are
null, those that are unknown are left out.
"""

from __future__ import annotations

from handler.requestlog.boot_record import BOOT_COLUMNS
from handler.requestlog.facts import CLOCK_PER_S
from handler.requestlog.record import COLUMNS, Status

STAGING = "request_logs_staging"
STAGE = f"create temp table {STAGING} (line json) on commit drop"

_TYPES = {
    **dict.fromkeys(("salt", "status", "kind"), "text"),
    **dict.fromkeys(("created_s", "start_s", "end_s", "first_scheduled_s", "first_token_s"), "double precision"),
    **dict.fromkeys(("queue_ms", "ttft_ms", "duration_ms"), "double precision"),
    **dict.fromkeys(("http_status", "prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens"), "integer"),
    **dict.fromkeys(("stream", "cold_start"), "boolean"),
    **dict.fromkeys(("metadata", "prompt"), "jsonb"),
    "id": "uuid",
    "created_at": "timestamptz",
}
_FIELDS = ", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in dict.fromkeys((*COLUMNS, *_TYPES)))
# What follows from a request's facts, as `Facts.to_record` has it.
_CLOCK = f"floor(created_s * {CLOCK_PER_S})::bigint"
_TIME = f"lpad(to_hex({_CLOCK} >> 12), 12, '0') || '7' || lpad(to_hex({_CLOCK} & 4095), 3, '0')"
_DERIVED = {
    "id": f"({_TIME} || '8' || salt)::uuid",
    "created_at": "to_timestamp(created_s)",
    "status": f"'{Status.SUCCESS}'",
    "total_tokens": "prompt_tokens + completion_tokens",
    "queue_ms": "(first_scheduled_s - start_s) * 1000",
    "ttft_ms": "(first_token_s - start_s) * 1000",
    "duration_ms": "(end_s - start_s) * 1000",
}
_VALUES = ", ".join(f"coalesce({name}, {_DERIVED[name]})" if name in _DERIVED else name for name in COLUMNS)
INSERT_REQUESTS = (
    f"insert into request_logs ({', '.join(COLUMNS)}) select {_VALUES}"  # noqa: S608 - constants
    f" from {STAGING}, json_to_record(line) as fields ({_FIELDS}) where kind is null"
    " on conflict (id) do nothing"
)

_BOOT_TYPES = {
    "id": "uuid",
    "started_at": "timestamptz",
    "ready_s": "double precision",
    "is_cold": "boolean",
    "read_bytes": "bigint",
    "devices": "jsonb",
    "phases": "jsonb",
}
_BOOT_FIELDS = ", ".join(f"{name} {_BOOT_TYPES.get(name, 'text')}" for name in (*BOOT_COLUMNS, "kind"))
# A list that is empty is left out of its line.
_BOOT_VALUES = ", ".join(
    f"coalesce({name}, '[]')" if _BOOT_TYPES.get(name) == "jsonb" else name for name in BOOT_COLUMNS
)
INSERT_BOOTS = (
    f"insert into boots ({', '.join(BOOT_COLUMNS)}) select {_BOOT_VALUES}"  # noqa: S608 - constants
    f" from {STAGING}, json_to_record(line) as fields ({_BOOT_FIELDS}) where kind = 'boot'"
    " on conflict (id) do nothing"
)

# Rows like any others, which tables that are ours take.
PROBE = (
    "insert into request_logs (id, request_id, created_at, endpoint, status, model_name, stream, http_status,"
    " finish_reason, error_type, error_message, prompt_tokens, duration_ms, cold_start, instance_id, metadata)"
    " values (gen_random_uuid(), '0123456789abcdef0123456789abcdef', now(), '/v1/chat/completions', 'cancelled',"
    " 'smollm2-135m', true, 499, 'tool_calls', 'ClientDisconnectedError', 'the client has disconnected', 1234, 1.5,"
    " false, '0123456789ab', '{}');"
)
PROBE_BOOTS = (
    "insert into boots (id, instance_id, started_at, version, model_name, devices, ready_s, is_cold, phases)"
    " values (gen_random_uuid(), '0123456789ab', now(), '0.0.0', 'smollm2-135m', '[]', 1.5, false, '[]');"
)
