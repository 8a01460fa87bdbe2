"""The queue worker under the local test server of RunPod's SDK, in front of a real function.

The SDK wants other versions of what the function needs, so it has an environment of its own: `make platforms`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from handler.engine.snapshot import Snapshot
from tests.conftest import TEST_HOME
from tests.server import DEADLINE_S, SINGLE_THREAD, free_port

WORKER = Path(__file__).parent.parent.parent / "infra" / "runpod" / "worker.py"
PYTHON = os.environ.get("RUNPOD_PYTHON", "")
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="RUNPOD_PYTHON names no interpreter with RunPod's SDK: make platforms"
)


@pytest.fixture(scope="module")
def worker(embedded_snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of the SDK's test server."""
    directory = tmp_path_factory.mktemp("runpod")
    (directory / "pilotlight").write_text(f'#!/bin/sh\nexec {sys.executable} -m handler "$@"\n')
    (directory / "pilotlight").chmod(0o755)
    port = free_port()
    environ = {
        "PATH": f"{directory}:{os.environ['PATH']}",
        "PILOTLIGHT_HOME": str(TEST_HOME),
        "SPOOL_DIR": str(directory / "spool"),
        "DATABASE_URL": "none",
        "FUNCTION_PORT": str(free_port()),
        "API_KEYS": "runpod:sk-of-the-function",
    }
    command = [PYTHON, str(WORKER), "--rp_serve_api", "--rp_api_port", str(port)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, env=SINGLE_THREAD | environ, stdout=log, stderr=log)
    with httpx.Client(base_url=f"http://localhost:{port}", timeout=DEADLINE_S) as client:
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                client.get("/")
                break
            except httpx.TransportError:
                assert process.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline_s, (directory / "log").read_text()
                time.sleep(0.05)
        yield client
    process.terminate()
    process.wait(DEADLINE_S)


def test_a_job_is_a_chat(worker: httpx.Client) -> None:
    job = {"input": {"messages": MESSAGES, "temperature": 0}}  # while the function still boots
    answer = worker.post("/runsync", json=job).json()
    assert answer["status"] == "COMPLETED", answer
    (output,) = answer["output"]
    assert "Paris" in output["choices"][0]["message"]["content"]


def test_a_job_may_come_by_runpods_own_openai_path(worker: httpx.Client) -> None:
    body = {"model": "smollm2-135m", "messages": MESSAGES, "temperature": 0}
    for route in ("/v1/chat/completions", "/chat/completions"):
        answer = worker.post("/runsync", json={"input": {"openai_route": route, "openai_input": body}}).json()
        assert "Paris" in answer["output"][0]["choices"][0]["message"]["content"]
    models = worker.post("/runsync", json={"input": {"openai_route": "/v1/models"}}).json()
    assert models["output"][0]["data"][0]["id"] == "smollm2-135m"


def test_the_events_of_a_stream_come_one_by_one(worker: httpx.Client) -> None:
    job = {"input": {"messages": MESSAGES, "temperature": 0, "stream": True}}
    job_id = worker.post("/run", json=job).json()["id"]
    events = worker.post(f"/stream/{job_id}").json()["stream"]
    assert len(events) > 4
    text = "".join(each["output"]["choices"][0]["delta"].get("content") or "" for each in events)
    assert "Paris" in text


def test_what_the_function_refuses_is_a_job_that_failed(worker: httpx.Client) -> None:
    answer = worker.post("/runsync", json={"input": {"messages": MESSAGES, "max_tokens": -1}}).json()
    assert "max_tokens" in str(answer)
    assert answer["status"] == "FAILED" or "error" in answer["output"][0]
