"""`pilotlight bench overload`: reads the command line, runs the rounds, gives out the result.

Exit codes: 0 when every goal was met, 1 when one was missed or something failed, 2 for bad usage.
"""

from __future__ import annotations

import argparse
import random

from bench.environment import look_around
from bench.options import chosen
from bench.outcome import give_out, result_of
from bench.overload.arguments import CONTENDERS
from bench.overload.contenders import OverloadedServer
from bench.overload.plan import Plan, missed_goals
from bench.rounds import run_rounds, show_progress
from bench.stub_model import STUB_MODEL
from bench.tables import show
from handler.cli.serve import ensure_snapshot
from handler.settings import Settings


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Measure and print.

    Raises:
        BenchError: the result cannot be written.
    """
    plan = Plan(
        rounds=args.rounds,
        seconds=args.seconds,
        factor=args.factor,
        tokens=args.tokens,
        queue_timeout_s=args.queue_timeout,
        batch_size=settings.max_batch_size,
        seed=args.seed,
    )
    contenders = [_contender(name, plan, settings) for name in chosen(CONTENDERS, args)]
    environment = look_around()
    rounds, failures = run_rounds(contenders, plan.rounds, random.Random(args.seed), show_progress)  # noqa: S311  (an order)
    give_out(result_of("overload", environment, settings, plan, rounds, failures), args, show)
    missed = [f"{each.contender}: {text}" for each in rounds for text in missed_goals(each.metrics, plan)]
    for line in missed:
        show_progress(f"missed: {line}")
    return 1 if failures or missed else 0


def _contender(name: str, plan: Plan, settings: Settings) -> OverloadedServer:
    if name == "pilotlight-stub":
        return OverloadedServer(name, ("bench.overload.serving",), STUB_MODEL, plan, {})
    snapshot = ensure_snapshot(settings)
    environ = {"MODEL_NAME": str(snapshot.directory), "PILOTLIGHT_HOME": str(settings.pilotlight_home)}
    return OverloadedServer(name, ("handler", "serve"), snapshot.name, plan, environ)
