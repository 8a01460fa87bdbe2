"""Ours: the engine alone in a process of its own, and `pilotlight serve` over HTTP."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bench.children import OWN_MODULE, ServerChild, free_port, own_environment, run_script
from bench.client import Endpoint
from bench.engine.memory import process_memory
from bench.engine.plan import InProcessSpec, Plan
from bench.engine.serving import measure_server
from bench.rounds import Measurement
from handler.engine.snapshot import open_snapshot
from handler.engine.tokenizer import Tokenizer

_START_S = 300.0
_SCRIPT_S = 900.0


class EngineAlone:
    """The engine without HTTP."""

    name = "engine"

    def __init__(self, plan: Plan, environ: Mapping[str, str], bandwidth_bytes: int) -> None:
        self._plan = plan
        # libgomp's spinning is what `pilotlight serve` sets for itself.
        self._environ = {"GOMP_SPINCOUNT": "1000"} | own_environment() | dict(environ)
        self._bandwidth_bytes = bandwidth_bytes

    def measure(self, round_number: int) -> Measurement:
        """Rates, times and memory."""
        return self._run(round_number, with_profile=False)

    def profile(self) -> Measurement:
        """Where a step's time goes; its rates would not be the engine's own, so there are none."""
        return self._run(0, with_profile=True)

    def _run(self, round_number: int, *, with_profile: bool) -> Measurement:
        spec = InProcessSpec(
            plan=self._plan,
            round_number=round_number,
            with_profile=with_profile,
            bandwidth_bytes=self._bandwidth_bytes,
        )
        command = [*OWN_MODULE, "bench.engine.inprocess"]
        return msgspec.convert(run_script(self.name, command, spec, self._environ, _SCRIPT_S), Measurement)


class PilotlightServer:
    """`pilotlight serve` with records in its spool, or in the embedded PostgreSQL."""

    name = "pilotlight"

    def __init__(self, plan: Plan, environ: Mapping[str, str]) -> None:
        self._plan = plan
        self._environ = own_environment() | dict(environ)
        snapshot = open_snapshot(Path(plan.snapshot))
        self._model = snapshot.name
        self._tokenizer = Tokenizer(snapshot.directory)

    def measure(self, round_number: int) -> Measurement:
        """Rates and times over HTTP, and the memory of the server's process."""
        port = free_port()
        command = [*OWN_MODULE, "handler", "serve", "--host", "127.0.0.1", "--port", str(port)]
        endpoint = Endpoint(
            host="127.0.0.1",
            port=port,
            model=self._model,
            extra={"ignore_eos": True, "stream_options": {"include_usage": True}},
        )
        with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as spool:
            environ = self._environ | {"SPOOL_DIR": spool}
            with ServerChild(self.name, command, environ, port=port, ready_path="/ready", start_s=_START_S) as child:
                loaded = process_memory(child.pid)
                measured = measure_server(endpoint, self._plan, self._tokenizer, round_number)
                ended = process_memory(child.pid)
        memory = {f"{name.removesuffix('_bytes')}_after_load_bytes": value for name, value in loaded.items()}
        memory["rss_after_run_bytes"] = ended["rss_bytes"]
        return Measurement(metrics=measured.metrics | memory, details=measured.details)
