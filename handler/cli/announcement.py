"""What `pilotlight serve` says once it is lit: an entry of the log for machines, a few lines with a `curl` for people.

Reads the engine and the timeline, and changes nothing. Event loop only.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import msgspec

from handler.engine.status import EngineState
from handler.logs import FIELDS
from handler.service import Service

logger = logging.getLogger(__name__)


def announce(service: Service, address: str) -> None:
    """Say what is served, where, and how the boot went; other devices may still be booting."""
    model, timeline = service.engine.model, service.timeline
    if model is None:  # it is a remote server's
        fields = {
            "address": address,
            "name": service.engine.snapshot.name,
            "engine": service.engine.snapshot.manifest.source,
        }
        logger.info("ready", extra={FIELDS: fields})
        return
    phases_s = {
        phase.name if phase.device is None else f"{phase.device} {phase.name}": phase.end_s - phase.start_s
        for phase in timeline.phases
        if phase.end_s is not None
    }
    info = msgspec.to_builtins(model.info)
    devices = [
        device.device if device.state is EngineState.READY else f"{device.device} ({device.state})"
        for device in service.engine.devices
    ]
    info["device"] = ", ".join(devices)
    ready_s = timeline.ready_s or 0.0
    if sys.stdout.isatty():
        print(_for_people(address, info, ready_s, phases_s), flush=True)  # noqa: T201  (the command's own output)
    else:
        logger.info("ready", extra={FIELDS: _for_machines(address, info, ready_s, phases_s)})


def _for_machines(address: str, info: dict[str, Any], ready_s: float, phases_s: dict[str, float]) -> dict[str, Any]:
    rounded = {name: round(seconds, 3) for name, seconds in phases_s.items()}
    return {"address": address, "ready_s": round(ready_s, 3), "phases_s": rounded, **info}


def _for_people(address: str, info: dict[str, Any], ready_s: float, phases_s: dict[str, float]) -> str:
    shown = "  ".join(f"{name} {seconds:.2f}" for name, seconds in phases_s.items())
    message = {
        "model": info["name"],
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    curl = f"curl {address}/v1/chat/completions -H 'content-type: application/json' -d '{json.dumps(message)}'"
    lines = (
        f"Pilotlight on {address}",
        f"  model   {info['name']} ({info['architecture']}, {info['max_model_len']} tokens of context)",
        f"  device  {info['device']}, {info['dtype']}, quantization {info['quantization']}",
        f"  cache   {info['kv_cache_tokens']} tokens",
        f"  ready   {ready_s:.2f} s after start: {shown}",
        f"  try     {curl}",
    )
    return "\n".join(lines)
