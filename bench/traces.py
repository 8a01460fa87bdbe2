"""Traces of requests that came to somebody else: BurstGPT's and Azure's, as the CSV files in which they are published.

BurstGPT (Wang et al. 2024, https://github.com/HPMLL/BurstGPT): `Timestamp` in seconds, `Model`, `Request tokens`,
`Response tokens`, `Total tokens`, `Log Type`. Azure LLM inference traces of 2023 and 2024
(https://github.com/Azure/AzurePublicDataset): `TIMESTAMP` as a date and a time of day, `ContextTokens`,
`GeneratedTokens`. Columns are found by name; others are left alone.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from bench.errors import BenchError

TraceFormat = Literal["burstgpt", "azure"]

_COLUMNS: dict[TraceFormat, tuple[str, str, str]] = {
    "burstgpt": ("Timestamp", "Request tokens", "Response tokens"),
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
}
_FRACTION = re.compile(r"(\.\d{6})\d+")
"""Azure's times have seven digits after the second's point, and Python's dates six."""


class TraceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    Attributes:
        at_s: since the first row.
        prompt_tokens: that it had.
        output_tokens: of its answer.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int


class TraceRows(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds.

    Attributes:
        requests: in the order of their times.
        num_unanswered: rows left out because nothing was generated: they failed, and say nothing of an answer's length.
    """

    requests: tuple[TraceRequest, ...]
    num_unanswered: int


def read_trace(path: Path, trace_format: TraceFormat, until_s: float) -> TraceRows:
    """The rows of the first `until_s` seconds.

    Raises:
        BenchError: the file cannot be read, is of another format, or holds no such row.
    """
    requests: list[TraceRequest] = []
    num_unanswered, first_s = 0, None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for time_s, prompt_tokens, output_tokens in _rows(file, path, trace_format):
                first_s = time_s if first_s is None else first_s
                if time_s - first_s >= until_s:
                    break
                if not prompt_tokens or not output_tokens:
                    num_unanswered += 1
                    continue
                requests.append(
                    TraceRequest(at_s=time_s - first_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"trace: {path} cannot be read: {error}") from error
    if not requests:
        raise BenchError(f"trace: {path} has no answered request in its first {until_s:g} s")
    return TraceRows(requests=tuple(requests), num_unanswered=num_unanswered)


def _rows(file: Iterator[str], path: Path, trace_format: TraceFormat) -> Iterator[tuple[float, int, int]]:
    """Time, prompt and output tokens of each row, in the order of time."""
    reader = csv.DictReader(file)
    columns = _COLUMNS[trace_format]
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise BenchError(f"trace: {path} has no column {missing[0]!r}, so it is not of the format {trace_format}")
    before_s = None
    for row in reader:
        try:
            time_s, *tokens = _time_s(row[columns[0]], trace_format), int(row[columns[1]]), int(row[columns[2]])
        except (TypeError, ValueError) as error:
            raise BenchError(f"trace: {path}, line {reader.line_num}: {error}") from error
        if before_s is not None and time_s < before_s:
            raise BenchError(f"trace: {path}, line {reader.line_num}: it is earlier than the row before it")
        before_s = time_s
        yield time_s, tokens[0], tokens[1]


def _time_s(text: str, trace_format: TraceFormat) -> float:
    if trace_format == "burstgpt":
        return float(text)
    moment = datetime.fromisoformat(_FRACTION.sub(r"\1", text))
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
