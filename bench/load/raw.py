"""The raw records of a load as a file: one JSON object a line. Written at once, or one by one as requests end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from bench.errors import BenchError
from bench.record import RequestRecord


def write_records(path: Path, records: Iterable[RequestRecord]) -> None:
    """All of them, in the order of their arrival.

    Raises:
        BenchError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(_line(record) for record in sorted(records, key=lambda record: record.number))
    except OSError as error:
        raise BenchError(f"raw: {path} cannot be written: {error.strerror}") from error


def read_records(path: Path) -> list[RequestRecord]:
    """All of them.

    Raises:
        BenchError: the file cannot be read, or holds something else.
    """
    try:
        return [msgspec.json.decode(line, type=RequestRecord) for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise BenchError(f"raw: {path} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise BenchError(f"raw: {path} holds no records: {error}") from error


class RawLog:
    """A file that grows with the load.

    Raises:
        BenchError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise BenchError(f"raw: {path} cannot be written: {error.strerror}") from error

    def write(self, record: RequestRecord) -> None:
        """One request that is over."""
        self._file.write(_line(record))

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


def _line(record: RequestRecord) -> bytes:
    return msgspec.json.encode(record) + b"\n"
