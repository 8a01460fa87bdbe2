"""`pilotlight bench http`: reads the command line, runs the rounds, gives out the result.

Exit codes: 0 when everything asked for was measured, 1 when something failed, 2 for bad usage or a missing program.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.cores import pinned
from bench.environment import installed, look_around
from bench.http.contenders import CANDIDATES, COMPARISONS, HttpServer
from bench.http.plan import Plan
from bench.http.wrk import find_wrk
from bench.options import chosen
from bench.outcome import give_out, result_of
from bench.rounds import run_rounds, show_progress
from bench.tables import show
from handler.cli.serve import ensure_snapshot
from handler.errors import ConfigurationError
from handler.requestlog.embedded import EmbeddedPostgres
from handler.settings import Settings

_PACKAGES = ("fastapi", "pydantic", "starlette", "uvicorn", "uvloop", "httptools")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Measure and print.

    Raises:
        ConfigurationError: a program, a package or a processor is missing.
        BenchError: the result cannot be written.
    """
    names = chosen(list(CANDIDATES), args)
    plan = _plan(args)
    if any(CANDIDATES[name].load == "whole" for name in names):
        find_wrk()
    if any(CANDIDATES[name].kind.startswith("fastapi") for name in names) and not installed(("fastapi",)):
        raise ConfigurationError("bench http", "needs FastAPI for its comparison: pip install 'pilotlight[bench]'")
    tokenizes = any(CANDIDATES[name].tokenizes for name in names)
    snapshot = ensure_snapshot(settings).directory.absolute() if tokenizes else Path()
    contenders = [HttpServer(name, plan, snapshot, _database) for name in names]
    environment = look_around()
    with pinned(plan.load_core):  # the reader of streams runs in this process
        rounds, failures = run_rounds(contenders, plan.rounds, random.Random(args.seed), show_progress)  # noqa: S311  (an order)
    peers = {"fastapi": installed(_PACKAGES)}
    result = result_of("http", environment, settings, plan, rounds, failures, comparisons=COMPARISONS, peers=peers)
    give_out(result, args, show)
    return 1 if failures else 0


def _plan(args: argparse.Namespace) -> Plan:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ConfigurationError("bench http", "needs two processors: one for the server, one for the load")
    return Plan(
        rounds=args.rounds,
        seconds=args.seconds,
        connections=args.connections,
        streams=args.streams,
        tokens=args.tokens,
        server_core=cores[0],
        load_core=cores[-1],
        seed=args.seed,
    )


@contextlib.contextmanager
def _database() -> Iterator[str]:
    """The URL of an empty PostgreSQL. Not below a directory that only our account may enter."""
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        home = Path(directory)
        home.chmod(0o711)
        embedded = EmbeddedPostgres(home)
        try:
            yield embedded.start()
        finally:
            embedded.stop()
