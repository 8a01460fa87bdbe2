"""What a container's health check says of a function that answers, and of none."""

from __future__ import annotations

import subprocess
import sys

from tests.server import ServerProcess, free_port


def check(port: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "handler.healthcheck"]
    return subprocess.run(command, env={"PORT": port}, capture_output=True, text=True, check=False)


def test_a_function_that_is_alive_is_good(server: ServerProcess) -> None:
    done = check(server.address.rpartition(":")[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert '"status":"ok"' in done.stdout


def test_a_port_where_nobody_answers_is_not() -> None:
    port = free_port()
    done = check(str(port))
    assert done.returncode == 1
    assert f"no answer on port {port}" in done.stderr
