from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.children import OWN_MODULE, ServerChild, ended_by_sigterm, free_port, own_environment, run_script
from bench.errors import BenchError

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def script(body: str) -> list[str]:
    return [sys.executable, "-c", "import json, sys\n" + body]


def run(body: str, timeout_s: float = 30.0) -> dict[str, object]:
    return run_script("child", script(body), {"number": 20}, dict(os.environ), timeout_s)


def test_a_script_answers_its_question() -> None:
    body = "json.dump({'twice': 2 * json.load(open(sys.argv[1]))['number']}, open(sys.argv[2], 'w'))"
    assert run(body) == {"twice": 40}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('first', flush=True); raise SystemExit('no such model')", "child ended with 1:\nfirst\nno such model"),
        ("print('done')", "child gave no answer"),
        ("open(sys.argv[2], 'w').write('[1]')", "child gave no answer"),
        ("import time; print('asleep', flush=True); time.sleep(60)", "child did not end within 1 s:\nasleep"),
    ],
)
def test_a_script_that_fails_is_told_with_its_last_words(body: str, message: str) -> None:
    with pytest.raises(BenchError) as caught:
        run(body, 1.0 if "sleep" in body else 30.0)
    assert str(caught.value).startswith(message)


def test_an_interpreter_that_is_not_there_is_named() -> None:
    with pytest.raises(BenchError, match="/nowhere/python cannot be started"):
        run_script("child", ["/nowhere/python"], {}, {}, 1.0)


def test_a_server_lives_as_long_as_its_block() -> None:
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(port)]
    with ServerChild("server", command, dict(os.environ), port=port, ready_path="/ready", start_s=30.0) as child:
        pid = child.pid
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    ("code", "path", "message"),
    [("raise SystemExit('port taken')", "/ready", "ended with 1:\nport taken"), (SERVER, "/never", "was not ready")],
)
def test_a_server_that_never_is_ready_is_told(code: str, path: str, message: str) -> None:
    port = free_port()
    command = [sys.executable, "-c", code, str(port)]
    with (
        pytest.raises(BenchError, match=message),
        ServerChild("server", command, dict(os.environ), port=port, ready_path=path, start_s=1.0),
    ):
        pass


def test_sigterm_leaves_no_server_behind() -> None:
    port = free_port()
    code = (
        "import os, sys\n"
        "from bench.children import OWN_MODULE, ServerChild, ended_by_sigterm\n"
        f"command = [sys.executable, '-c', {SERVER!r}, '{port}']\n"
        f"child = ServerChild('s', command, dict(os.environ), port={port}, ready_path='/ready', start_s=30.0)\n"
        "with ended_by_sigterm(), child:\n"
        "    print(child.pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=own_environment()
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not psutil.pid_exists(pid)


def test_the_handler_from_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ended_by_sigterm():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_our_modules_are_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "bench.py").write_text("raise SystemExit('the wrong one')")
    code = "import bench; print(bench.__file__)"
    done = subprocess.run(
        [*OWN_MODULE[:-1], "-c", code],
        env=own_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).name == "__init__.py"
