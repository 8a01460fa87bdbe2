"""wrk against servers whose answers are known."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.children import free_port
from bench.errors import BenchError
from bench.http.plan import API_KEY
from bench.http.wrk import WrkAnswer, WrkLoad, put_load, run_wrk

pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")

_BODY = b'{"message":"BODY and KEY stay as they are"}'
CORE = max(os.sched_getaffinity(0))


class Handler(BaseHTTPRequestHandler):
    """Answers what it knows, and 503 to all the rest."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/json" else 503)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        is_right = body == _BODY and self.headers["authorization"] == f"Bearer {API_KEY}"
        self._answer(200 if is_right else 400)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def load(port: int, path: str, body: bytes | None = None, *, wants_latencies: bool = False) -> WrkAnswer:
    return put_load(
        WrkLoad(port=port, path=path, body=body, connections=4, seconds=1, core=CORE, wants_latencies=wants_latencies)
    )


def test_every_latency_of_a_load_is_there(port: int) -> None:
    answer = load(port, "/json", wants_latencies=True)
    assert not any(answer.errors.values())
    assert sum(count for _, count in answer.values) == answer.num_requests > 0
    assert [value for value, _ in answer.values] == sorted({value for value, _ in answer.values})
    assert 0 < answer.load_cpu_share < 1


def test_it_is_told_whether_the_load_was_in_real_time(port: int) -> None:
    attempt = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    may = subprocess.run([sys.executable, "-c", attempt], capture_output=True, check=False).returncode == 0
    assert load(port, "/json").in_real_time == may


def test_a_body_is_posted_as_it_is(port: int) -> None:
    answer = load(port, "/v1/chat/completions", _BODY)
    assert answer.num_requests > 0
    assert not any(answer.errors.values())
    assert answer.values == ()


def test_errors_are_counted(port: int) -> None:
    answer = load(port, "/nowhere")
    assert answer.errors["status"] == answer.num_requests > 0


def test_errors_are_raised_where_there_must_be_none(port: int) -> None:
    with pytest.raises(BenchError, match="requests failed"):
        run_wrk(port, b"{}", 2, 1, CORE)


def test_where_nobody_listens_there_is_no_load() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        load(free_port(), "/json")
