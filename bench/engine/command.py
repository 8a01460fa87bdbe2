"""`pilotlight bench engine`: reads the command line, runs the rounds, gives out the result.

Exit codes: 0 when everything asked for was measured, 1 when something failed (the rest is in the result, the failure
too), 2 for bad usage, a missing peer among it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from bench.comparison import ratios, summaries
from bench.engine.comparison import comparisons
from bench.engine.contenders import EngineAlone, PilotlightServer
from bench.engine.gguf import gguf_of
from bench.engine.peers import LlamaCpp, TransformersBatch, TransformersServe
from bench.engine.plan import Plan
from bench.environment import look_around
from bench.errors import BenchError
from bench.interpreters import peer_versions
from bench.result import Failure, Result, encode_result, write_result
from bench.rounds import Contender, run_rounds, show_progress
from bench.tables import show
from handler.cli.serve import ensure_snapshot
from handler.settings import Settings

_BANDWIDTH_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Measure and print.

    Raises:
        ConfigurationError: the command line does not go together, or a peer is missing.
        BenchError: the result cannot be written.
    """
    python = args.peer_python.absolute()
    versions = {peer: peer_versions(peer, python) for peer in dict.fromkeys(args.peer)}
    settings = _measured_settings(args, settings)
    plan = Plan(
        snapshot=str(ensure_snapshot(settings).directory.absolute()),
        clients=args.clients,
        tokens=args.tokens,
        requests_per_client=args.requests,
        prompt_tokens=args.prompt_tokens,
        rounds=args.rounds,
        seed=args.seed,
    )
    environ = _environment(args, settings)
    engine = EngineAlone(plan, environ, _bandwidth_bytes(args, settings))
    contenders = _ours(args, plan, environ, engine) + _peers(args, plan, settings, python)
    environment = look_around()
    rounds, failures = run_rounds(contenders, plan.rounds, random.Random(args.seed), show_progress)  # noqa: S311  (an order)
    result = Result(
        benchmark="engine",
        arguments=tuple(sys.argv[1:]),
        environment=environment,
        settings=settings.public(),
        peers=versions,
        plan=msgspec.to_builtins(plan),
        rounds=tuple(rounds),
        failures=tuple(failures),
        summary=summaries(rounds),
        ratios=ratios(rounds, comparisons(plan.clients)),
        profile=None,
    )
    _keep(result, args.out)
    if args.profile:  # the figures are safe: who ends this now loses the profile only
        profile = _profile(engine, failures)
        result = msgspec.structs.replace(result, profile=profile, failures=tuple(failures))
        _keep(result, args.out)
    if args.json:
        sys.stdout.write(encode_result(result).decode())
    else:
        show(result)
    return 1 if failures else 0


def _keep(result: Result, out: Path | None) -> None:
    if out is not None:
        write_result(result, out)


def _profile(engine: EngineAlone, failures: list[Failure]) -> dict[str, object] | None:
    show_progress("profile")
    try:
        profile: dict[str, object] = engine.profile().details["profile"]
    except BenchError as error:
        failures.append(Failure(round_number=0, contender="profile", error=str(error)))
        return None
    return profile


def _measured_settings(args: argparse.Namespace, settings: Settings) -> Settings:
    """Those that the engine runs with: the command line's model, and a batch that takes all clients."""
    model = args.model or settings.model_name
    if args.random_model is not None:
        from bench.models import random_model  # noqa: PLC0415  (imports torch)

        model = str(random_model(args.random_model, args.random_dtype, settings.pilotlight_home).directory)
    batch = max(settings.max_batch_size, *args.clients)
    return msgspec.structs.replace(settings, model_name=model, max_batch_size=batch, api_keys={})


def _environment(args: argparse.Namespace, settings: Settings) -> Mapping[str, str]:
    """What makes a child of ours read these settings; everything else it inherits. Empty counts as unset."""
    return {
        "MODEL_NAME": settings.model_name,
        "MAX_BATCH_SIZE": str(settings.max_batch_size),
        "PILOTLIGHT_HOME": str(settings.pilotlight_home),
        "DATABASE_URL": "none" if args.database == "none" else "",
        "API_KEYS": "",
    }


def _bandwidth_bytes(args: argparse.Namespace, settings: Settings) -> int:
    if args.bandwidth_mib is not None:
        return int(args.bandwidth_mib) << 20
    return _BANDWIDTH_BYTES[_device(settings).partition(":")[0]]


def _device(settings: Settings) -> str:
    if settings.model_device != "auto":
        return settings.model_device
    return "cuda" if look_around().gpus else "cpu"


def _ours(args: argparse.Namespace, plan: Plan, environ: Mapping[str, str], engine: EngineAlone) -> list[Contender]:
    ours: list[Contender] = []
    if "engine" in args.parts:
        ours.append(engine)
    if "http" in args.parts:
        ours.append(PilotlightServer(plan, environ))
    return ours


def _peers(args: argparse.Namespace, plan: Plan, settings: Settings, python: Path) -> list[Contender]:
    makers: dict[str, Callable[[], Contender]] = {
        "transformers": lambda: TransformersServe(plan, python, args.peer_dtype, _device(settings)),
        "transformers-batch": lambda: TransformersBatch(plan, python, args.peer_dtype, _device(settings)),
        "llama-cpp": lambda: LlamaCpp(plan, python, gguf_of(settings, args.gguf)),
    }
    return [makers[peer]() for peer in dict.fromkeys(args.peer)]
