"""From rounds to a result, and from a result to whoever asked for it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

import msgspec

from bench.comparison import Comparison, ratios, summaries
from bench.environment import Environment
from bench.result import Failure, Result, ResultT, RoundResult, encode_result, write_result
from handler.settings import Settings


def result_of(
    benchmark: str,
    environment: Environment,
    settings: Settings,
    plan: msgspec.Struct,
    rounds: Sequence[RoundResult],
    failures: Sequence[Failure],
    *,
    comparisons: Sequence[Comparison] = (),
    peers: Mapping[str, dict[str, str]] | None = None,
) -> Result:
    """The result of rounds, with what is derived from them."""
    return Result(
        benchmark=benchmark,
        arguments=tuple(sys.argv[1:]),
        environment=environment,
        settings=settings.public(),
        peers=dict(peers or {}),
        plan=msgspec.to_builtins(plan),
        rounds=tuple(rounds),
        failures=tuple(failures),
        summary=summaries(rounds),
        ratios=ratios(rounds, comparisons),
        profile=None,
    )


def give_out(result: ResultT, args: argparse.Namespace, show_tables: Callable[[ResultT], None]) -> None:
    """Write it to `--out`, and print it as tables or, with `--json`, as such.

    Raises:
        BenchError: the file cannot be written.
    """
    if args.out is not None:
        write_result(result, args.out)
    if args.json:
        sys.stdout.write(encode_result(result).decode())
    else:
        show_tables(result)
