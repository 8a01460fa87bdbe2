"""On what a measurement was made and how it was planned, as pairs of words. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from bench.environment import Environment
from bench.report.numbers import NOTHING, exact


class Fact(msgspec.Struct, frozen=True):
    """A name and what stands against it."""

    name: str
    value: str


def moment(taken_at: str) -> str:
    """An ISO 8601 moment as people write it; another text as it is."""
    try:
        when = datetime.fromisoformat(taken_at)
    except ValueError:
        return taken_at
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()


def environment_facts(environment: Environment) -> list[Fact]:
    """The machine and the code."""
    commit = environment.commit or "not known"
    if environment.is_modified:
        commit += ", with changes that are not committed"
    cards = ", ".join(f"{gpu.name}, {gpu.memory_mib:,} MiB, driver {gpu.driver}" for gpu in environment.gpus)
    return [
        Fact("taken at", moment(environment.taken_at)),
        Fact("commit", commit),
        Fact("processor", f"{environment.cpu_model or 'not known'}, {environment.num_cpus} CPUs"),
        Fact("instruction sets", ", ".join(environment.cpu_flags) or NOTHING),
        Fact("memory", f"{environment.memory_bytes / 1e9:.1f} GB"),
        Fact("GPU", cards or "none"),
        Fact("kernel", environment.kernel),
        Fact("load average at the start", ", ".join(f"{load:.2f}" for load in environment.load_average)),
        Fact("Python", environment.python),
        Fact("packages", _pairs(environment.packages)),
        Fact("environment variables", _pairs(environment.variables) or NOTHING),
    ]


def plan_facts(plan: dict[str, Any]) -> list[Fact]:
    """Each entry of the plan under its own name."""
    return [Fact(name.replace("_", " "), _value(value)) for name, value in plan.items()]


def peer_facts(peers: dict[str, dict[str, str]]) -> list[Fact]:
    """Versions of the others' packages."""
    return [Fact(peer, _pairs(packages) or NOTHING) for peer, packages in sorted(peers.items())]


def _pairs(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')} {_value(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(each) for each in value) or NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return exact(value)
    return NOTHING if value is None else str(value)
