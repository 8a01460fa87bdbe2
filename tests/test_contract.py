"""The description against the running server: schemathesis looks for anything in which they differ.

By hand, and longer: see `docs/api.md`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from handler.contract import ENDPOINTS
from handler.engine.snapshot import Snapshot
from tests.server import ServerProcess

KEY = "sk-contract"


def test_schemathesis_finds_nothing(tiny_served: Snapshot, tmp_path: Path) -> None:
    environ = {
        "PILOTLIGHT_HOME": str(tmp_path),
        "MODEL_NAME": str(tiny_served.directory),
        "MODEL_DEVICE": "cpu",
        "DATABASE_URL": "none",
        "API_KEYS": f"ci:{KEY}",
        "KEYLESS_PATHS": "/health,/ready,/ping,/startup,/openapi.json",
        "DEFAULT_MAX_TOKENS": "4",
    }
    with ServerProcess(environ) as server:
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json", "-n", "5"],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PILOTLIGHT_API_KEY": KEY},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=150,
        )
    assert run.returncode == 0, run.stdout
    assert f"Tested: {len(ENDPOINTS) - 1}" in run.stdout  # all but the description itself
