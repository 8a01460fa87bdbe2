"""`pilotlight serve` with an engine that does what a prompt asks of it: the program, and how tests start it.

A prompt with one of the marks below makes the step fail that computes it. SIGUSR1 has the process count what it holds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.boot import BootTimeline
from handler.cli.listener import bind
from handler.cli.serve import engine_options, serve
from handler.engine.core import EngineCore
from handler.engine.engine import Engine
from handler.engine.pool import EnginePool
from handler.engine.snapshot import find_snapshot
from handler.engine.step import Batch
from handler.logs import configure_logging
from handler.occupancy import Occupancy
from handler.requestlog.embedded import EmbeddedPostgres
from handler.settings import Settings
from tests.server import ServerProcess

NO_MEMORY, LOST, HANG = "\x01", "\x02", "\x03"
STEP_S, BOOT_S, LOST_GRACE_S, STALL_S = "TEST_STEP_S", "TEST_BOOT_S", "TEST_LOST_GRACE_S", "TEST_STALL_S"
SLOW_STOP = "TEST_SLOW_STOP"


class FaultyServer(ServerProcess):
    """The settings are the environment, and beside them how long steps and the boot take at least, and the like."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ, program=("-m", "tests.faulty_server"))

    def count(self, number: int) -> dict[str, Any]:
        """What the process holds; the `number`th time that it is asked."""
        self.send_signal(signal.SIGUSR1)
        return self.entry("count", number)


class FaultyRunner:
    """A runner that fails, hangs or takes its time."""

    def __init__(self, runner: Any, step_s: float) -> None:
        self._runner = runner
        self._step_s = step_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def launch(self, batch: Batch) -> Any:
        marks = {token for chunk in batch for token in chunk.sequence.tokens[: chunk.sequence.num_prompt_tokens]}
        if ord(NO_MEMORY) in marks:
            raise MemoryError("of /the/machine is all gone")
        if ord(LOST) in marks:
            raise RuntimeError("CUDA error: unspecified launch failure")
        if ord(HANG) in marks:
            threading.Event().wait()
        time.sleep(self._step_s)
        return self._runner.launch(batch)


class FaultyEngine(Engine):
    def _boot(self) -> EngineCore:
        time.sleep(float(os.environ.get(BOOT_S, "0")))
        core = super()._boot()
        core._runner = FaultyRunner(core._runner, float(os.environ.get(STEP_S, "0")))
        return core


def stop_slowly(_: EmbeddedPostgres) -> None:
    """As a database with a long last checkpoint; but say that it has begun."""
    sys.stdout.write(json.dumps({"message": "stopping the database"}) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


def count(*_: object) -> None:
    """Print what the process holds, as a line of its log."""
    num_cyclic = gc.collect()
    objects = Counter(type(each).__qualname__ for each in gc.get_objects())
    counts = {
        "message": "count",
        "tasks": len(asyncio.all_tasks(asyncio.get_running_loop())),
        "threads": sum(not thread.name.startswith(("AnyIO worker", "plan")) for thread in threading.enumerate()),
        "cyclic": num_cyclic,
        "admitted": sum(each.num_admitted for each in gc.get_objects() if isinstance(each, Occupancy)),
        "listeners": sum(len(each._listeners) for each in gc.get_objects() if isinstance(each, Engine)),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "objects": sum(objects.values()),
        "types": dict(objects.most_common(400)),
    }
    sys.stdout.write(json.dumps(counts) + "\n")
    sys.stdout.flush()


def main() -> int:
    settings = Settings.from_env(os.environ)
    timeline = BootTimeline()
    configure_logging(settings.log_level)
    signal.signal(signal.SIGUSR1, count)
    if SLOW_STOP in os.environ:
        EmbeddedPostgres.stop = stop_slowly  # type: ignore[method-assign]
    snapshot = find_snapshot(settings.model_name, settings.pilotlight_home)
    engine = EnginePool(snapshot, engine_options(settings), timeline, engine_type=FaultyEngine)
    return serve(
        settings,
        engine,
        timeline,
        bind("127.0.0.1", settings.port),
        lost_grace_s=float(os.environ.get(LOST_GRACE_S, "10")),
        stall_timeout_s=float(os.environ.get(STALL_S, "30")),
    )


if __name__ == "__main__":
    sys.exit(main())
