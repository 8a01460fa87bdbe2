"""The Modal app as its SDK reads it, which has an environment of its own: `make platforms`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import orjson
import pytest

APP = Path(__file__).parent.parent.parent / "infra" / "modal" / "app.py"
PYTHON = os.environ.get("MODAL_PYTHON", "")

LOOK = """
import importlib.util, json, sys
import modal
spec = importlib.util.spec_from_file_location("app", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(json.dumps({"name": module.app.name, "is_class": isinstance(module.Function, modal.Cls)}))
"""


@pytest.mark.skipif(not PYTHON, reason="MODAL_PYTHON names no interpreter with Modal's SDK: make platforms")
def test_modals_sdk_takes_the_app() -> None:
    done = subprocess.run([PYTHON, "-W", "error", "-c", LOOK, str(APP)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout) == {"name": "pilotlight", "is_class": True}
