"""Reads a result that a report can show, and refuses others by name."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.errors import BenchError
from bench.gate.result import GateResult
from bench.result import Result
from handler.errors import ConfigurationError


class _Header(msgspec.Struct):
    """What all results begin with; a file may lack the name."""

    benchmark: str | None = None
    format_version: int | None = None


_TYPES: dict[str, type[Result] | type[GateResult]] = {"compare": Result, "gate": GateResult}
_VERSION = 1


def read_result(path: Path) -> Result | GateResult:
    """The result in a file, or in the `result.json` of a directory.

    Raises:
        ConfigurationError: there is no such file, or a report does not show such a result.
        BenchError: it is damaged.
    """
    file = path / "result.json" if path.is_dir() else path
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigurationError("FILE", f"{file} cannot be read: {error.strerror}") from error
    try:
        header = msgspec.json.decode(data, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError("FILE", f"{file} is no result of a benchmark: {error}") from error
    kind = _TYPES.get(header.benchmark or "")
    if kind is None:
        what = f"of `bench {header.benchmark}`" if header.benchmark else "that names no benchmark"
        shown = " and ".join(f"`bench {name}`" for name in _TYPES)
        raise ConfigurationError("FILE", f"{file} is a result {what}; a report shows those of {shown}")
    if header.format_version != _VERSION:
        raise ConfigurationError("FILE", f"{file} has format {header.format_version}; a report reads format {_VERSION}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{file} is damaged: {error}") from error
