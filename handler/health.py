"""Probes: is the process alive, can it serve a token, how did it boot. They need no key and touch no engine."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from handler.engine.engine import EngineState
from handler.service import Service

_MAX_ENGINE_SILENCE_S = 30.0
"""Longest time between two steps before the engine counts as hung; a step is one chunk of prompt at most."""


class HealthEndpoints:
    """/health, /ready, /startup and /metrics."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _: Request) -> Response:
        """200 while the process does its work or boots, 503 once an engine is dead or hung.

        A device that could not boot makes it "degraded", and that is still 200: others serve, and a new process on
        this machine would find the same device. One that fails later leaves a state that only a new process mends.
        """
        engine = self._service.engine
        devices = {device.device: str(device.state) for device in engine.devices}
        alive = engine.is_alive(_MAX_ENGINE_SILENCE_S)
        status = "dead" if not alive else "degraded" if EngineState.FAILED in devices.values() else "ok"
        return _json({"status": status, "engine": str(engine.state), "devices": devices}, alive)

    async def ready(self, _: Request) -> Response:
        """200 when a new request would be served at once, 503 while booting, draining or failed."""
        return _json({"status": self._state()}, self._service.is_ready)

    async def startup(self, _: Request) -> Response:
        """The timeline of the boot; 503 until it is over."""
        timeline, model = self._service.timeline, self._service.engine.model
        body = {
            "status": self._state(),
            "ready_s": timeline.ready_s,
            "phases": timeline.phases,
            "model": None if model is None else model.info,
            "devices": [
                {"device": device.device, "state": str(device.state), "error": device.error}
                for device in self._service.engine.devices
            ],
            "error": None if self._service.boot_error is None else str(self._service.boot_error),
        }
        return _json(body, timeline.ready_s is not None)

    async def metrics(self, _: Request) -> Response:
        """Prometheus text format."""
        return Response(generate_latest(self._service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _state(self) -> str:
        if self._service.admission.is_stopping:
            return "stopping"
        return str(self._service.engine.state)


def _json(body: dict[str, Any], is_good: bool) -> Response:
    encoded = orjson.dumps(body, default=msgspec.to_builtins)
    return Response(encoded, status_code=200 if is_good else 503, media_type="application/json")
