"""What the benchmarks share: the embedded model, and in the JSON the machine and the commit they were measured on."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from bench.environment import look_around
from handler.cli.serve import ensure_snapshot
from handler.engine.snapshot import EMBEDDED_MODEL
from handler.settings import Settings


@pytest.fixture(scope="session")
def embedded_model() -> None:
    """Prepared below PILOTLIGHT_HOME, now if it never was."""
    ensure_snapshot(msgspec.structs.replace(Settings.from_env(os.environ), model_name=EMBEDDED_MODEL))


@pytest.hookimpl
def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Add what all results of the harness say of where they come from."""
    output_json["environment"] = msgspec.to_builtins(look_around())
