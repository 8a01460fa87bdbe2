"""Probes: is the process alive, can it serve a token, how did it boot. They need no key and touch no engine."""

from __future__ import annotations

import re
from typing import Literal

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from handler import __version__
from handler.engine.status import EngineState
from handler.schema.codec import encode_json
from handler.schema.status import DeviceBoot, Health, Readiness, ReadyStatus, Startup, Version
from handler.service import Service

_DIRECTORIES = re.compile(r"(?<![\w./:])/(?:[^/\s'\":,;()]+/)+")


class HealthEndpoints:
    """/health, /ready, /ping, /startup, /version and /metrics."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _: Request) -> Response:
        """200 while the process does its work or boots, 503 once an engine is dead or hung.

        A device that could not boot makes it "degraded", and that is still 200: others serve, and a new process on
        this machine would find the same device. One that fails later leaves a state that only a new process mends.
        """
        engine = self._service.engine
        devices = {device.device: str(device.state) for device in engine.devices}
        if not self._service.engine.is_alive:
            return _json(Health("dead", str(engine.state), devices), is_good=False)
        status: Literal["ok", "degraded"] = "degraded" if EngineState.FAILED in devices.values() else "ok"
        return _json(Health(status, str(engine.state), devices))

    async def ready(self, _: Request) -> Response:
        """200 when a new request would be served at once, 503 while booting, draining or failed."""
        return _json(ReadyStatus(self._state()), is_good=self._service.is_ready)

    async def ping(self, _: Request) -> Response:
        """200 when a token could be served, 204 while booting, 503 when none will be: RunPod's load balancing.

        SageMaker and Vertex AI wait for the 200, and take anything else for "not yet".
        """
        if self._service.is_ready and self._service.engine.is_alive:
            return Response(status_code=200)
        return Response(status_code=204 if self._state() == "booting" and self._service.engine.is_alive else 503)

    async def startup(self, _: Request) -> Response:
        """The timeline of the boot; 503 until it is over."""
        service = self._service
        body = Startup(
            status=self._state(),
            ready_s=service.timeline.ready_s,
            phases=list(service.timeline.phases),
            model=None if service.engine.model is None else service.engine.model.info,
            devices=[DeviceBoot(each.device, str(each.state), _public(each.error)) for each in service.engine.devices],
            error=None if service.boot_error is None else _public(str(service.boot_error)),
        )
        return _json(body, is_good=body.ready_s is not None)

    async def version(self, _: Request) -> Response:
        """This function's version."""
        return _json(Version(__version__))

    async def metrics(self, _: Request) -> Response:
        """Prometheus text format."""
        return Response(generate_latest(self._service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _state(self) -> Readiness:
        state: Readiness = self._service.engine.state.value
        return "stopping" if self._service.admission.is_stopping and state != "failed" else state


def _public(text: str | None) -> str | None:
    """What went wrong without the directories that it names: whoever asks learns no more of this machine."""
    return None if text is None else _DIRECTORIES.sub("", text)


def _json(body: msgspec.Struct, *, is_good: bool = True) -> Response:
    return Response(encode_json(body), status_code=200 if is_good else 503, media_type="application/json")
