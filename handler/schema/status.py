"""What the probes and /version answer."""

from __future__ import annotations

from typing import Literal

import msgspec

from handler.boot import Phase
from handler.engine.status import ModelInfo

Readiness = Literal["booting", "ready", "stopping", "failed", "stopped"]


class Health(msgspec.Struct, frozen=True):
    """Answer of GET /health: of the process, of its engines together, and of each device."""

    status: Literal["ok", "degraded", "dead"]
    engine: str
    devices: dict[str, str]


class ReadyStatus(msgspec.Struct, frozen=True):
    """Answer of GET /ready."""

    status: Readiness


class DeviceBoot(msgspec.Struct, frozen=True):
    """How one device's boot went."""

    device: str
    state: str
    error: str | None


class Startup(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of GET /startup. Times are seconds since the process started."""

    status: Readiness
    ready_s: float | None
    phases: list[Phase]
    model: ModelInfo | None
    devices: list[DeviceBoot]
    error: str | None


class Version(msgspec.Struct, frozen=True):
    """Answer of GET /version."""

    version: str
