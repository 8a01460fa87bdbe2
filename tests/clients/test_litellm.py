"""LiteLLM's OpenAI provider: the requests that it sends, as recorded, and LiteLLM itself where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server import DEADLINE_S, ServerProcess

MODEL = "smollm2-135m"
HERE = Path(__file__).parent
RECORDED: list[dict[str, Any]] = json.loads((HERE / "litellm_requests.json").read_text())


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["name"])
def test_what_it_sends_is_taken(server: ServerProcess, recorded: dict[str, Any]) -> None:
    response = httpx.post(f"{server.address}{recorded['path']}", json=recorded["body"], timeout=DEADLINE_S)
    assert response.status_code == recorded["status"], response.text


@pytest.mark.skipif("LITELLM_PYTHON" not in os.environ, reason="LiteLLM has a venv of its own: make litellm")
def test_litellm_itself(server: ServerProcess) -> None:
    run = subprocess.run(
        [os.environ["LITELLM_PYTHON"], HERE / "litellm_calls.py", f"{server.address}/v1", MODEL],
        env={key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert "Paris" in said["whole"]
    assert said["streamed"] == said["whole"]
    assert said["usage"] == said["stream_usage"] == 8
    assert said["choices"] == 2
    assert said["text"].startswith(" 6, 7")
    name, arguments = said["call"]
    assert (name, set(arguments)) == ("add", {"a", "b"})
    assert said["streamed_call"] == said["call"]
    assert said["json"].lstrip().startswith("{")
    assert "temperature" in said["refusal"]
    assert said["requests"] == [{"path": each["path"], "body": each["body"]} for each in RECORDED]
