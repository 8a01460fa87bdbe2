"""`pilotlight bench compare`: reads the command line, runs the rounds, gives out the result.

Exit codes: 0 when everything was measured and every goal that could be was reached, 1 otherwise, 2 for bad usage or a
missing program.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console

from bench.baselines.greetings import prepare_table
from bench.baselines.plan import STACKS, Stack
from bench.compare.calibration import with_model_rates
from bench.compare.contenders import StackPart
from bench.compare.goals import goal_outcomes
from bench.compare.metrics import comparisons_of
from bench.compare.plan import MODEL_PARTS, ROUNDS, STUB_PARTS, Plan, full_plan, has_part, quick_plan
from bench.compare.progress import RunProgress, clock
from bench.compare.raw import RawFiles
from bench.compare.tables import show
from bench.cores import pinned
from bench.environment import installed, look_around
from bench.errors import BenchError
from bench.http.wrk import find_wrk
from bench.log.postgres import Postgres, running_postgres
from bench.outcome import result_of
from bench.result import Failure, Result, RoundResult, encode_result, write_result
from bench.rounds import run_rounds
from handler.cli.serve import ensure_snapshot
from handler.engine.snapshot import Snapshot
from handler.errors import ConfigurationError
from handler.settings import Settings

_PACKAGES: dict[Stack, tuple[str, ...]] = {
    "fastapi": ("fastapi", "pydantic", "starlette", "uvicorn", "uvloop", "httptools", "asyncpg", "jinja2"),
    "flask": ("flask", "werkzeug", "gunicorn", "pydantic", "psycopg", "jinja2"),
    "django": ("django", "gunicorn", "pydantic", "psycopg"),
    "django-asgi": ("django", "uvicorn", "uvloop", "httptools", "pydantic", "psycopg"),
}
WriteReport = Callable[[Result, Path], None]

_LOAD_PACKAGES = ("locust", "gevent")
_DESCRIPTORS = 4096
"""Open files at most: a thousand connections have one each, in the server and in the load."""


def run(args: argparse.Namespace, settings: Settings, write_report: WriteReport) -> int:
    """Measure and print; `write_report` puts the report of a result into a directory.

    Raises:
        ConfigurationError: a program, a package or a processor is missing.
        BenchError: the database did not start, or the result cannot be written.
    """
    return compare(_plan(args), args, settings, write_report)


def compare(plan: Plan, args: argparse.Namespace, settings: Settings, write_report: WriteReport) -> int:
    """Measure what the plan says, and print; as `run` does.

    Raises:
        ConfigurationError: a program or a package is missing.
        BenchError: the database did not start, or the result cannot be written.
    """
    find_wrk()
    _check_packages(plan)
    _raise_descriptor_limit()
    raw = RawFiles(None if args.out is None else args.out / "raw")
    snapshot = ensure_snapshot(settings) if plan.needs_model else None
    environment = look_around()
    # The reader of streams runs in this process, and PostgreSQL is started by it.
    with pinned(plan.load_core), running_postgres() as postgres, _progress(plan) as progress:
        asyncio.run(prepare_table(postgres.url))
        plan, failures = _calibrated(plan, snapshot, progress)
        rounds, failed = _measure(plan, postgres, snapshot, raw, progress)
    peers = {stack: installed(_PACKAGES.get(stack, ())) for stack in plan.stacks} | {"load": installed(_LOAD_PACKAGES)}
    comparisons = comparisons_of(plan)
    failures += failed
    result = result_of("compare", environment, settings, plan, rounds, failures, comparisons=comparisons, peers=peers)
    _give_out(result, args, write_report)
    unreached = [outcome for outcome in goal_outcomes(result.ratios) if outcome.is_reached is False]
    return 1 if failures or unreached else 0


def _plan(args: argparse.Namespace) -> Plan:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ConfigurationError("bench compare", "needs two processors: one for the server, one for the load")
    stacks = [stack for stack in STACKS if args.only is None or stack in args.only]
    make, size = (quick_plan, "quick") if args.quick else (full_plan, "full")
    return make(stacks, args.rounds or ROUNDS[size], cores[0], cores[-1], args.seed)


def _check_packages(plan: Plan) -> None:
    wanted = {package for stack in plan.stacks for package in _PACKAGES.get(stack, ())} | set(_LOAD_PACKAGES)
    missing = sorted(wanted - set(installed(tuple(wanted))))
    if missing:
        raise ConfigurationError("bench compare", f"needs {', '.join(missing)}: pip install 'pilotlight[bench]'")


def _raise_descriptor_limit() -> None:
    """For this process and all that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _DESCRIPTORS:
        raise ConfigurationError("bench compare", f"needs {_DESCRIPTORS} open files, the limit is {hard}: ulimit -n")
    if soft != resource.RLIM_INFINITY and soft < _DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, hard))


def _progress(plan: Plan) -> RunProgress:
    progress = RunProgress(len(plan.steps) + plan.needs_model, plan.total_s, Console(stderr=True))
    progress.say(
        f"{len(plan.stacks)} stacks, {plan.rounds} rounds: about {clock(plan.total_s)} minutes; servers on processor "
        f"{plan.server_core}, loads and PostgreSQL on processor {plan.load_core}"
    )
    return progress


def _calibrated(plan: Plan, snapshot: Snapshot | None, progress: RunProgress) -> tuple[Plan, list[Failure]]:
    """The plan with the model's rates; without its parts, and saying so, where there is no finding them."""
    if snapshot is None:
        return plan, []
    progress.begin("rates of the embedded model", plan.calibration_s)
    try:
        found = with_model_rates(plan, snapshot)
    except BenchError as error:
        progress.say(str(error))
        stacks = [stack for part, _, stack in plan.steps if part in MODEL_PARTS]
        failures = [Failure(round_number=0, contender=stack, error=f"embedded model: {error}") for stack in stacks]
        return msgspec.structs.replace(plan, model_rounds=0), failures
    progress.plan_again(found.total_s)
    rates = ", ".join(f"{rate:g}" for rate in found.model_loops.rates_per_s)
    progress.say(f"the embedded model's open loops: {rates} a second")
    return found, []


def _measure(
    plan: Plan, postgres: Postgres, snapshot: Snapshot | None, raw: RawFiles, progress: RunProgress
) -> tuple[list[RoundResult], list[Failure]]:
    """All rounds of a part, then those of the next: within a round little time lies between one stack and another."""
    rng = random.Random(plan.seed)  # noqa: S311  (an order)
    rounds: list[RoundResult] = []
    failures: list[Failure] = []
    for part in (*STUB_PARTS, *MODEL_PARTS):
        contenders = [
            StackPart(stack, part, plan, postgres, snapshot, raw, progress)
            for stack in plan.stacks
            if has_part(stack, part)
        ]
        measured, failed = run_rounds(contenders, plan.rounds_of(part), rng, progress.say)
        rounds += measured
        failures += failed
    return rounds, failures


def _give_out(result: Result, args: argparse.Namespace, write_report: WriteReport) -> None:
    if args.out is not None:
        write_result(result, args.out / "result.json")
    if args.json:
        sys.stdout.write(encode_result(result).decode())
    else:
        show(result)
    if args.out is not None:
        write_report(result, args.out)
