"""When a serving process collects garbage: not while it boots, and again once it serves."""

from __future__ import annotations

from pathlib import Path

import orjson

from handler.engine.snapshot import Snapshot
from tests.conftest import TEST_HOME
from tests.server import ServerProcess

SERVE = """
import atexit, gc, json, sys
freeze, has_booted, in_boot = gc.freeze, [], []

def note_boot():
    has_booted.append(True)
    freeze()

def note_collection(phase, info):
    if "torch" in sys.modules and not has_booted:
        in_boot.append(info)

gc.freeze = note_boot
gc.callbacks.append(note_collection)
atexit.register(lambda: print(json.dumps({
    "message": "collector", "in_boot": in_boot, "has_booted": bool(has_booted), "is_enabled": gc.isenabled(),
}), flush=True))
from handler.__main__ import main
sys.exit(main(["serve", "--port", "0"]))
"""


def test_no_garbage_is_collected_in_a_boot_and_some_is_later(embedded_snapshot: Snapshot, tmp_path: Path) -> None:
    environ = {
        "PILOTLIGHT_HOME": str(TEST_HOME),
        "SPOOL_DIR": str(tmp_path),
        "DATABASE_URL": "none",
        "MODEL_NAME": embedded_snapshot.name,
    }
    with ServerProcess(environ, program=("-c", SERVE)) as process:
        assert process.stop() == 0
        (line,) = (orjson.loads(line) for line in process.lines if line.startswith('{"message": "collector"'))
    assert line == {"message": "collector", "in_boot": [], "has_booted": True, "is_enabled": True}
