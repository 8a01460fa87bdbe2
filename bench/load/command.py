"""`pilotlight bench load`: reads the command line, puts the load on, gives out what it came to.

Exit codes: 0 when answers came, 1 when none did or the load was what was measured, 2 for bad usage.
"""

from __future__ import annotations

import argparse
import os

import msgspec

from bench.environment import installed, look_around
from bench.errors import BenchError
from bench.load.options import spec_of
from bench.load.plan import LoadSpec
from bench.load.processes import run_load
from bench.load.report import show
from bench.load.result import LoadResult
from bench.load.target import first_model, parse_target
from bench.outcome import give_out
from bench.rounds import show_progress
from handler.errors import ConfigurationError
from handler.settings import Settings


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Measure and print.

    Raises:
        ConfigurationError: an option cannot be, or Locust is missing.
        BenchError: the server does not say which models it has, a process failed, or a file cannot be written.
    """
    del settings
    if not installed(("locust",)):
        raise ConfigurationError("bench load", "needs Locust: pip install 'pilotlight[bench]'")
    spec = _spec(args)
    environment = look_around()
    end_s = spec.window.end_s
    show_progress(f"a load of {end_s:g} s on {spec.url}, and what its last requests take")
    answer = run_load(spec, args.processes)
    plan = msgspec.structs.replace(spec, api_key=None)
    give_out(LoadResult(environment=environment, plan=plan, processes=args.processes, answer=answer), args, show)
    return 1 if answer.invalid is not None or not answer.num_whole else 0


def _spec(args: argparse.Namespace) -> LoadSpec:
    api_key = args.api_key or os.environ.get("OPENAI_API_KEY") or None
    try:
        target = parse_target(args.url)
        if args.users is not None and args.arrivals not in {"", "closed"}:
            raise BenchError(f"users: are not for {args.arrivals} arrivals")  # noqa: TRY301  (one of several)
        spec = spec_of(
            args,
            url=args.url,
            model=args.model or "",
            api_key=api_key,
            users=args.users or 1,
            length_s=float(args.seconds),
            includes_ends=False,
        )
    except BenchError as error:
        raise ConfigurationError("bench load", f"--{error}") from error
    model = args.model or first_model(target, api_key)
    return msgspec.structs.replace(spec, model=model, core=args.core)
