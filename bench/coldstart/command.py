"""`pilotlight bench coldstart`: reads the command line, runs the rounds, gives out the result.

Exit codes: 0 when every goal was met, 1 when one was missed or something failed, 2 for bad usage.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
from collections.abc import Callable
from pathlib import Path

from bench.children import OWN_MODULE, own_environment
from bench.coldstart.arguments import CONTENDERS, SCALE_TO_ZERO
from bench.coldstart.caches import check_caches_can_be_dropped, drop_caches
from bench.coldstart.floor import Floor
from bench.coldstart.plan import COMPARISONS, Plan, missed_goals
from bench.coldstart.scale_to_zero import ScaleToZero
from bench.coldstart.starts import Server, Starts
from bench.environment import look_around
from bench.interpreters import offline_environment, peer_versions
from bench.options import chosen
from bench.outcome import give_out, result_of
from bench.rounds import Contender, run_rounds, show_progress
from bench.tables import show
from bench.workload import story_prompt
from handler.cli.serve import ensure_snapshot
from handler.engine.snapshot import EMBEDDED_MODEL, QUANTISED_FILE, Snapshot
from handler.errors import ConfigurationError
from handler.settings import Settings

_COUNTED = {"stream_options": {"include_usage": True}}


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Measure and print.

    Raises:
        ConfigurationError: the command line does not go together, or something is missing.
        BenchError: the result cannot be written.
    """
    if args.drop_caches:
        check_caches_can_be_dropped()
    python = args.peer_python.absolute()
    versions = {"transformers": peer_versions("transformers", python)} if args.transformers else {}
    snapshot = ensure_snapshot(settings)
    plan = Plan(
        rounds=args.runs,
        drops_caches=args.drop_caches,
        prompt=story_prompt(args.seed, 0),
        weights=tuple(str(path) for path in _weights(snapshot, settings)),
        seed=args.seed,
    )
    contenders = _contenders(args, settings, snapshot, plan, python)
    environment = look_around()
    rounds, failures = run_rounds(contenders, plan.rounds, random.Random(args.seed), show_progress)  # noqa: S311  (an order)
    result = result_of(
        "coldstart", environment, settings, plan, rounds, failures, comparisons=COMPARISONS, peers=versions
    )
    give_out(result, args, show)
    missed = missed_goals(
        result.summary.get(SCALE_TO_ZERO if args.scale_to_zero else "pilotlight", {}),
        result.ratios,
        has_goals_in_seconds=settings.model_name == EMBEDDED_MODEL and not plan.drops_caches,
    )
    for line in missed:
        show_progress(f"missed: {line}")
    return 1 if failures or missed else 0


def _contenders(
    args: argparse.Namespace, settings: Settings, snapshot: Snapshot, plan: Plan, python: Path
) -> list[Contender]:
    prepare = drop_caches if plan.drops_caches else _nothing
    if args.scale_to_zero:
        if args.only or args.transformers or args.peer_command:
            raise ConfigurationError("bench coldstart --scale-to-zero", "is of the function alone")
        return [ScaleToZero(_ours(settings, snapshot), plan.prompt, prepare, plan.seed)]
    makers: dict[str, Callable[[], Contender]] = {
        "pilotlight": lambda: Starts(_ours(settings, snapshot), plan.prompt, prepare),
        "floor": lambda: Floor(plan.weights, prepare),
    }
    if args.transformers:
        makers["transformers"] = lambda: Starts(_transformers(python, snapshot), plan.prompt, prepare)
    if args.peer_command is not None:
        makers["peer"] = lambda: Starts(_peer(args), plan.prompt, prepare)
    names = [name for name in chosen(CONTENDERS, args) if name in makers]
    if not names:
        raise ConfigurationError("bench coldstart --only", "nobody is left to be started")
    return [makers[name]() for name in names]


def _nothing() -> None:
    return None


def _weights(snapshot: Snapshot, settings: Settings) -> list[Path]:
    """Those that the function reads: of two forms of the same model the quantised one, unless that is not wanted."""
    files = sorted(snapshot.directory.glob("*.safetensors"))
    quantised = [path for path in files if path.name == QUANTISED_FILE]
    plain = [path for path in files if path not in quantised]
    return quantised if quantised and settings.quantization in {"auto", "int8"} else plain


def _ours(settings: Settings, snapshot: Snapshot) -> Server:
    environ = {
        "HOST": "127.0.0.1",
        "MODEL_NAME": settings.model_name,
        "PILOTLIGHT_HOME": str(settings.pilotlight_home),
        "DATABASE_URL": "none",
        "SPOOL_DIR": "{directory}/spool",
        "API_KEYS": "",
    }
    return Server(
        name="pilotlight",
        command=(*OWN_MODULE, "handler", "serve", "--port", "{port}"),
        environ=own_environment() | environ,
        ready_path="/health",
        model=snapshot.name,
        extra=_COUNTED,
        tells_phases=True,
    )


def _transformers(python: Path, snapshot: Snapshot) -> Server:
    model = str(snapshot.directory)
    program = str(python.with_name("transformers"))
    return Server(
        name="transformers",
        command=(program, "serve", model, "--host", "127.0.0.1", "--port", "{port}"),
        environ=offline_environment(),
        ready_path="/health",
        model=model,
        extra=_COUNTED,
    )


def _peer(args: argparse.Namespace) -> Server:
    if "{port}" not in args.peer_command:
        raise ConfigurationError("bench coldstart --peer-command", "does not say {port}, where it is to listen")
    return Server(
        name="peer",
        command=tuple(shlex.split(args.peer_command)),
        environ=dict(os.environ),
        ready_path=args.peer_ready,
        model=args.peer_model,
        extra=_COUNTED,
    )
