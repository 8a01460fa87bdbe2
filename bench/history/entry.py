"""The history's file: one line of JSON for each commit and processor. Owns its form, and nothing of what is in it.

The order of the lines is that of the commits. A commit that is measured again on the same processor keeps its line's
place, so that to run a job once more changes nothing but the figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from bench.errors import BenchError

Better = Literal["lower", "higher"]


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one commit, in `unit`, and which way it is better."""

    value: float
    unit: str
    better: Better


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One commit on one processor.

    Attributes:
        commit: its full hash.
        taken_at: when it was measured, ISO 8601, UTC.
        cpu_model: as the kernel names it; figures of two models are no series.
        metrics: by name, such as `gate.requests_per_s` or `micro.decode`.
    """

    commit: str
    taken_at: str
    cpu_model: str
    metrics: dict[str, Metric]


def read_history(path: Path) -> list[Entry]:
    """All entries, the oldest commit first.

    Raises:
        BenchError: there is no such file, or a line of it is no entry.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from error
    return [_decode(line, path, number) for number, line in enumerate(lines, 1)]


def keep(path: Path, entry: Entry) -> bool:
    """Add an entry to the file, which is made where there is none; False if it took the place of an older one.

    Raises:
        BenchError: the file cannot be read or written, or a line of it is no entry.
    """
    entries = read_history(path) if path.exists() else []
    places = {(each.commit, each.cpu_model): place for place, each in enumerate(entries)}
    place = places.get((entry.commit, entry.cpu_model))
    if place is None:
        entries.append(entry)
    else:
        entries[place] = entry
    _write(path, entries)
    return place is None


def _decode(line: bytes, path: Path, number: int) -> Entry:
    try:
        return msgspec.json.decode(line, type=Entry)
    except msgspec.DecodeError as error:
        raise BenchError(f"{path}, line {number}: not an entry of a history: {error}") from error


def _write(path: Path, entries: list[Entry]) -> None:
    """Whole or not at all: the file is all that is left of runs of months."""
    scratch = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(msgspec.json.Encoder(order="sorted").encode_lines(entries))
        scratch.replace(path)
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from error
