"""Which harness serves a revision: ours, unless only its own fits its function."""

from __future__ import annotations

import subprocess

import msgspec

from bench.errors import BenchError
from bench.gate.installation import Installation
from bench.gate.plan import Plan
from bench.gate.stub_duel import running_stub

_TIMEOUT_S = 120.0


def fit(side: Installation, plan: Plan) -> Installation:
    """The installation with the harness that fits it; with ours where neither does, so that what is wrong is said."""
    own = msgspec.structs.replace(side, own_harness=True)
    return own if not _fits(side, plan) and _fits(own, plan) else side


def _fits(side: Installation, plan: Plan) -> bool:
    """Whether the micro paths can be called, the shipper imported, and a server started."""
    calls = [f"{path}=1" for path in plan.paths]
    commands = (side.command("bench.gate.counted") + tuple(calls), side.command("bench.gate.shipper")[:2] + _IMPORTING)
    try:
        for command in commands:
            subprocess.run(  # noqa: S603  (our own arguments)
                command, capture_output=True, timeout=_TIMEOUT_S, check=True, env=side.environment()
            )
        with running_stub(side, plan):
            return True
    except (subprocess.SubprocessError, BenchError):
        return False


_IMPORTING = ("-c", "import bench.gate.shipper")
