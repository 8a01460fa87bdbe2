"""Records into the spool, one by one, as requests end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from handler.requestlog.facts import Facts
from handler.requestlog.record import Status
from handler.requestlog.spool import Spool

NUM_RECORDS = 256

FACTS = Facts(
    request_id="0190163d8694739b87b0e5c4f1a2d3e4",
    endpoint="/v1/chat/completions",
    salt="0123456789abcde",
    created_s=1_790_000_000.25,
    start_s=1000.0,
    end_s=1000.5,
    first_scheduled_s=1000.001,
    first_token_s=1000.02,
    status=Status.SUCCESS,
    model_name="smollm2-135m",
    api_key_id="team",
    stream=True,
    http_status=200,
    finish_reason="stop",
    prompt_tokens=200,
    cached_tokens=128,
    completion_tokens=64,
    cold_start=False,
    instance_id="instance-1",
    metadata={"team": "search"},
)


def spool() -> Callable[[], int]:
    """Records that a new spool holds after as many appends. It lies in a directory of its own, gone after each call."""

    def append() -> int:
        with tempfile.TemporaryDirectory(prefix="pilotlight-micro-") as directory:
            spool = Spool(Path(directory))
            for _ in range(NUM_RECORDS):
                spool.append(FACTS)
            pending_records = spool.pending_records
            spool.close()
        return pending_records

    return append
