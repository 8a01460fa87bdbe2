"""wrk, the load on endpoints that answer whole: one thread of C, which costs far less than what it measures.

Debian's package `wrk`. It is told what to send by a script in Lua, which prints what came back as JSON.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from bench.errors import BenchError
from bench.http.plan import API_KEY
from handler.errors import ConfigurationError

_GRACE_S = 20.0
_SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer KEY"
wrk.body = [==[BODY]==]
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"num_requests":%d,"duration_s":%f,"num_errors":%d,"p99_ms":%f}\\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(99) / 1e3))
end
"""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What one load came to. `load_cpu_share` near 1 would mean that wrk was what was measured."""

    num_requests: int
    duration_s: float
    num_errors: int
    p99_ms: float
    load_cpu_share: float = 0.0

    @property
    def requests_per_s(self) -> float:
        """Answers over time."""
        return self.num_requests / self.duration_s


def find_wrk() -> str:
    """The program.

    Raises:
        ConfigurationError: it is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise ConfigurationError("bench http", "needs wrk, which is not installed: apt-get install wrk")
    return path


def run_wrk(port: int, body: bytes, connections: int, seconds: int, core: int) -> Answered:
    """POST `body` to the chat endpoint over and over, on one processor.

    Raises:
        BenchError: wrk failed, or a request did.
    """
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        script = Path(directory) / "load.lua"
        script.write_text(_SCRIPT.replace("KEY", API_KEY).replace("BODY", body.decode()), encoding="utf-8")
        pinned = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.argv[2], sys.argv[2:])"
        command = [
            *(sys.executable, "-c", pinned, str(core), find_wrk(), "--threads", "1", "--connections", str(connections)),
            *("--duration", f"{seconds}s", "--latency", "--script", str(script)),
            f"http://127.0.0.1:{port}/v1/chat/completions",
        ]
        before_s = _cpu_of_children_s()
        try:
            done = subprocess.run(  # noqa: S603  (our own arguments)
                command, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise BenchError(f"wrk: {error}") from error
        cpu_s = _cpu_of_children_s() - before_s
    try:
        answered = msgspec.json.decode(done.stdout.splitlines()[-1], type=Answered)
    except (IndexError, msgspec.MsgspecError) as error:
        raise BenchError(f"wrk said nothing that can be read: {done.stdout[-500:]}") from error
    if answered.num_errors or not answered.num_requests:
        raise BenchError(f"{answered.num_errors} of {answered.num_requests} requests failed:\n{done.stdout[-500:]}")
    return msgspec.structs.replace(answered, load_cpu_share=cpu_s / answered.duration_s)


def _cpu_of_children_s() -> float:
    """Of those that have ended and been waited for; servers are not among them before they end."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
