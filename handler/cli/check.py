"""`pilotlight check`: what this would run with, and what is wrong with it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial

import asyncpg
import msgspec
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from handler.boot import BootTimeline
from handler.cli.serve import engine_options
from handler.engine.devices import place_engines
from handler.engine.options import EngineOptions
from handler.engine.snapshot import find_snapshot, verify_checksums
from handler.errors import ConfigurationError, PilotlightError
from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.failure import describe_failure
from handler.settings import Settings, without_password

_CONNECT_TIMEOUT_S = 10.0


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was found, and whether it would work."""

    subject: str
    is_good: bool
    detail: str


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "check",
        help="show what serve would run with, and what is wrong",
        description="Checks settings, snapshot, model, device, database and spool. Exit code 1 if serve would fail.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Look at everything, even after something was found wrong."""
    looks = (
        {"device": _device, "snapshot": _snapshot, "model": _model}
        if settings.engine_url is None
        else {"server": _server}
    )
    looks |= {"database": _database, "spool": _spool}
    findings = [_look(subject, partial(look, settings)) for subject, look in looks.items()]
    if args.json:
        report = {"settings": settings.public(), "findings": findings}
        sys.stdout.buffer.write(orjson.dumps(report, default=msgspec.to_builtins) + b"\n")
    else:
        _print(settings, findings)
    return 0 if all(finding.is_good for finding in findings) else 1


def _look(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, is_good=True, detail=look())
    except (PilotlightError, OSError) as error:
        return Finding(subject, is_good=False, detail=str(error))
    except Exception as error:  # noqa: BLE001  (a damaged file can make a library raise anything; the rest is looked at too)
        return Finding(subject, is_good=False, detail=f"{type(error).__name__}: {error}")


def _device(settings: Settings) -> str:
    import torch  # noqa: PLC0415  (only what looks at the model pays for it)

    from handler.engine.kv_cache import free_memory_bytes  # noqa: PLC0415
    from handler.engine.precision import resolve_precision  # noqa: PLC0415

    details = []
    for options in _options_by_device(settings):
        precision = resolve_precision(options)
        device = precision.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        dtype = str(precision.dtype).removeprefix("torch.")
        kernels = f", {_kernels()}" if device.type == "cpu" and _wants_int8(options) else ""
        details.append(f"{device} ({name}), {dtype}{kernels}, {free_memory_bytes(device) / 2**30:.1f} GiB free")
    return f"{'; '.join(details)}, torch {torch.__version__}"


def _wants_int8(options: EngineOptions) -> bool:
    return options.quantization == "int8" or options.quantization == options.dtype == "auto"


def _kernels() -> str:
    from handler.engine.native.library import INSTRUCTION_SETS, load_kernels  # noqa: PLC0415  (as the rest)

    kernels = load_kernels()
    if kernels is not None:
        return f"int8 kernels for {kernels.instructions}"
    return f"no int8 kernels (no C compiler at install, or neither {' nor '.join(INSTRUCTION_SETS.values())})"


def _snapshot(settings: Settings) -> str:
    snapshot = find_snapshot(settings.model_name, settings.pilotlight_home)
    verify_checksums(snapshot)
    return f"{snapshot.directory}, checksums good"


def _model(settings: Settings) -> str:
    """Load it for real on each device in turn, and compute two tokens."""
    from handler.engine.loading import load_core  # noqa: PLC0415  (torch is not needed for the other findings)

    snapshot = find_snapshot(settings.model_name, settings.pilotlight_home)
    infos = [load_core(snapshot, options, BootTimeline()).model.info for options in _options_by_device(settings)]
    info = infos[0]
    return (
        f"{info.name}: {info.architecture} on {', '.join(each.device for each in infos)}, {info.dtype}, "
        f"quantization {info.quantization}, {info.max_model_len} tokens of context, "
        f"cache for {' and '.join(str(each.kv_cache_tokens) for each in infos)} tokens"
    )


def _server(settings: Settings) -> str:
    """Ask the server that generates in place of an engine for its models."""
    from handler.upstream.engine import models_at  # noqa: PLC0415  (an HTTP client, for nobody else)

    assert settings.engine_url is not None
    names, shown = models_at(settings.engine_url, settings.engine_api_key), without_password(settings.engine_url)
    if settings.model_name not in names:
        raise ConfigurationError(
            "MODEL_NAME", f"{settings.model_name!r} is not at {shown}, which has {', '.join(names) or 'none'}"
        )
    return f"{shown} has {settings.model_name}"


def _options_by_device(settings: Settings) -> list[EngineOptions]:
    options = engine_options(settings)
    return [msgspec.structs.replace(options, device=placement.device) for placement in place_engines(options)]


def _database(settings: Settings) -> str:
    """Connect to it; the embedded one is started, and stopped again if nobody else uses it."""
    if settings.database_url == "none":
        return "none: records stay in the spool"
    if settings.database_url is not None:
        version = asyncio.run(_server_version(settings.database_url))
        return f"{without_password(settings.database_url)}: PostgreSQL {version}"
    embedded = EmbeddedPostgres(settings.pilotlight_home)
    try:
        return f"embedded: PostgreSQL {asyncio.run(_server_version(embedded.start()))}"
    finally:
        embedded.stop()


async def _server_version(url: str) -> str:
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_TIMEOUT_S)
        try:
            return str(await connection.fetchval("show server_version"))
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise ConfigurationError("DATABASE_URL", describe_failure(error, url)) from error


def _spool(settings: Settings) -> str:
    directory = settings.spool_directory
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"{directory} is not writable")
    free_bytes = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
    end = "" if settings.keeps_spool else "; what is left at exit goes to standard output, for no SPOOL_DIR is named"
    return f"{directory}, {free_bytes / 2**30:.1f} GiB free{end}"


def _print(settings: Settings, findings: list[Finding]) -> None:
    console = Console()
    table = Table("setting", "value", title="Settings")
    for key, value in settings.public().items():
        table.add_row(key, Text("" if value is None else str(value)))
    console.print(table)
    for finding in findings:
        mark = "[green]good[/green]" if finding.is_good else "[red]wrong[/red]"
        console.print(f"{mark}  {finding.subject}: ", end="")
        console.print(finding.detail, markup=False, highlight=False, soft_wrap=True)
