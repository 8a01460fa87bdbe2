"""Loads of the tests, each in a process of its own as always."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from bench.arrivals import Arrivals, Window
from bench.lengths import Fixed
from bench.load.plan import LoadAnswer, LoadSpec
from bench.load.processes import run_load
from bench.load.raw import read_records
from bench.record import RequestRecord
from tests.bench.load.known_server import WORDS


def spec(port: int, arrivals: Arrivals, seconds: float, *, tokens: int = 4, **others: Any) -> LoadSpec:
    fields: dict[str, Any] = {
        "url": f"http://127.0.0.1:{port}",
        "model": "known",
        "arrivals": arrivals,
        "output_tokens": Fixed(tokens=tokens),
        "prompt_tokens": Fixed(tokens=4),
        "window": Window(warm_up_s=0.0, duration_s=seconds, cool_down_s=0.0),
        "timeout_s": 10.0,
        "exact": True,
        "words": WORDS,
    }
    return LoadSpec(**fields | others)


async def loaded(load: LoadSpec, directory: Path, num_processes: int = 1) -> tuple[LoadAnswer, list[RequestRecord]]:
    """The answer and the records, in the order of their numbers."""
    path = directory / "raw.jsonl"
    load = msgspec.structs.replace(load, raw=str(path))
    answer = await asyncio.to_thread(run_load, load, num_processes)
    return answer, read_records(path)
