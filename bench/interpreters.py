"""Interpreters that others' servers are installed for: what those need there, and which versions they are.

Such an interpreter need not be ours, and finds nothing of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import msgspec

from handler.errors import ConfigurationError

_LOOK_S = 60.0


class Requirement(msgspec.Struct, frozen=True):
    """Modules that a peer's interpreter must find, the packages whose versions are noted, and how to install them."""

    modules: tuple[str, ...]
    packages: tuple[str, ...]
    install: str


REQUIREMENTS = {
    "transformers": Requirement(
        ("transformers", "torch", "accelerate", "fastapi", "uvicorn", "openai"),
        ("transformers", "torch", "accelerate"),
        "'transformers[serving]' torch",
    ),
    "transformers-batch": Requirement(
        ("transformers", "torch"), ("transformers", "torch", "triton"), "transformers torch"
    ),
    "llama-cpp": Requirement(("llama_cpp",), ("llama-cpp-python",), "llama-cpp-python"),
}
PEERS = tuple(REQUIREMENTS)

_LOOK = (
    "import importlib.metadata as m, importlib.util as u, json, sys\n"
    "modules, packages = json.loads(sys.argv[1])\n"
    "named = [(d.metadata['Name'], d.version) for d in m.distributions()]\n"
    "have = {name.lower().replace('_', '-'): version for name, version in named if name}\n"
    "print(json.dumps([[x for x in modules if u.find_spec(x) is None], {p: have[p] for p in packages if p in have}]))\n"
)


def peer_versions(peer: str, python: Path) -> dict[str, str]:
    """Versions of the peer's packages.

    Raises:
        ConfigurationError: the interpreter cannot be run, or lacks what the peer needs.
    """
    requirement = REQUIREMENTS[peer]
    question = json.dumps([requirement.modules, requirement.packages])
    try:
        done = subprocess.run(  # noqa: S603  (the interpreter that the user named)
            [python, "-c", _LOOK, question], capture_output=True, text=True, timeout=_LOOK_S, check=True
        )
        missing, versions = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigurationError("--peer-python", f"{python} cannot be run: {error}") from error
    if missing:
        hint = f"{python} -m pip install {requirement.install}"
        raise ConfigurationError("--peer", f"{peer}: {python} has no {', '.join(missing)}; install with: {hint}")
    found: dict[str, str] = versions
    return found


def offline_environment() -> dict[str, str]:
    """The environment without our packages in it, and with no look at the hub."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
