"""Where raw samples go: one file of JSON lines for each load, below `raw/` of the output directory."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bench.errors import BenchError

_LARGE_BYTES = 1 << 20


class RawFiles:
    """Names files and packs large ones. Without a directory nothing is kept.

    Args:
        directory: is made if it is not there.

    Raises:
        BenchError: it cannot be made.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BenchError(f"{directory} cannot be made: {error.strerror}") from error

    def path(self, name: str) -> Path | None:
        """Where the samples of one load go."""
        return None if self._directory is None else (self._directory / f"{name}.jsonl").absolute()

    def write(self, name: str, lines: Iterable[object]) -> str | None:
        """Write them; the name of the file.

        Raises:
            BenchError: it cannot be written.
        """
        path = self.path(name)
        if path is None:
            return None
        try:
            path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        except OSError as error:
            raise BenchError(f"{path} cannot be written: {error.strerror}") from error
        return self.keep(name)

    def keep(self, name: str) -> str | None:
        """Pack what somebody else has written if it is large; the name of the file, None where there is none."""
        path = self.path(name)
        if path is None or not path.is_file():
            return None
        if path.stat().st_size <= _LARGE_BYTES:
            return path.name
        packed = path.with_name(f"{path.name}.gz")
        with path.open("rb") as source, gzip.open(packed, "wb", compresslevel=5) as target:
            shutil.copyfileobj(source, target)
        path.unlink()
        return packed.name
