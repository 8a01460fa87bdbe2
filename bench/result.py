"""The file that a benchmark leaves: raw samples, what was derived from them, and on what they were taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.environment import Environment
from bench.errors import BenchError
from bench.stats import Summary

FORMAT_VERSION = 1

ResultT = TypeVar("ResultT", bound=msgspec.Struct)


class RoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """One contender in one round.

    Attributes:
        round_number: from 0.
        contender: its name.
        load_average_1: of the machine when it began, over the minute before.
        metrics: figures by name.
        details: raw samples and facts behind them.
    """

    round_number: int
    contender: str
    load_average_1: float
    metrics: dict[str, float]
    details: dict[str, Any]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement that could not be made; the others went on."""

    round_number: int
    contender: str
    error: str


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """One metric over another, taken round by round: what drifts with the machine cancels out.

    Attributes:
        name: what it says, in words.
        numerator: contender and metric.
        denominator: contender and metric.
        summary: over the rounds in which both were measured.
    """

    name: str
    numerator: str
    denominator: str
    summary: Summary


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. See docs/performance.md for the names of the metrics.

    Attributes:
        benchmark: its name on the command line.
        arguments: the command line after it.
        environment: of the machine.
        settings: that the engine ran with.
        peers: versions of the peers' packages by peer.
        plan: what each contender was asked to do.
        rounds: everything that was measured.
        failures: everything that could not be.
        summary: median, range and interval over the rounds, by contender and metric.
        ratios: of contenders to each other.
        profile: where a step's time goes, by batch size; None where that was not asked for.
        format_version: of this file.
    """

    benchmark: str
    arguments: tuple[str, ...]
    environment: Environment
    settings: dict[str, Any]
    peers: dict[str, dict[str, str]]
    plan: dict[str, Any]
    rounds: tuple[RoundResult, ...]
    failures: tuple[Failure, ...]
    summary: dict[str, dict[str, Summary]]
    ratios: tuple[Ratio, ...]
    profile: dict[str, Any] | None
    format_version: int = FORMAT_VERSION


def encode_result(result: msgspec.Struct) -> bytes:
    """One JSON object on one line, of this or another kind of result."""
    return msgspec.json.encode(_publishable(result)) + b"\n"


def write_result(result: msgspec.Struct, path: Path) -> None:
    """Write the result where a person may read it too.

    Raises:
        BenchError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(_publishable(result))) + b"\n")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from error


def published(result: ResultT) -> ResultT:
    """The result as files have it, for whoever shows it to others."""
    return msgspec.convert(_publishable(result), type(result))


def _publishable(value: Any) -> Any:
    """The value in builtin types, with the last part of absolute paths: a machine's directories are its own."""
    value = msgspec.to_builtins(value)
    if isinstance(value, dict):
        return {key: _publishable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_publishable(each) for each in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value
