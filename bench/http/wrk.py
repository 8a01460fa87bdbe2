"""wrk, the load on endpoints that answer whole: one thread of C, which costs far less than what it measures.

Debian's package `wrk`. It is told what to send by a script in Lua, which prints what came back as JSON. Its loop is
closed: a connection asks again when it has its answer, so while a server stalls nobody asks, and the stall is one slow
answer for each connection, however many would have come (coordinated omission). It says what a server can do, and
nothing of how long users would wait: that takes an open loop.
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
from bench.http.wrk_latencies import without_made_up
from handler.errors import ConfigurationError

_CHAT = "/v1/chat/completions"
_GRACE_S = 20.0
_TIMEOUT_S = 2
"""wrk's own: a later answer is an error."""
_PRELUDE = """
import contextlib, os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
with contextlib.suppress(PermissionError):
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
os.environ["IN_REAL_TIME"] = "true" if os.sched_getscheduler(0) == os.SCHED_FIFO else "false"
os.execv(sys.argv[2], sys.argv[2:])
"""
"""On its processor wrk goes before all others, where it may: a load that waits for PostgreSQL there measures that."""
_SCRIPT = """
local began_s = os.clock()
wrk.method = "METHOD"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer KEY"
wrk.body = BODY
done = function(summary, latency, requests)
  local cpu_s = os.clock() - began_s
  local errors, values = summary.errors, {}
  for i = 1, WANTED do
    local value, count = latency(i)
    values[i] = string.format("[%d,%d]", value, count)
  end
  io.write(string.format(
    '\\n{"num_requests":%d,"duration_us":%d,"p99_ms":%f,"cpu_s":%f,"in_real_time":%s,"values":[%s],' ..
    '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\\n',
    summary.requests, summary.duration, latency:percentile(99) / 1e3, cpu_s, os.getenv("IN_REAL_TIME"),
    table.concat(values, ","),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
"""


class WrkLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One load.

    Attributes:
        port: of the server, on the loopback.
        path: that is asked for.
        body: that is posted; None asks with GET.
        connections: that are kept busy.
        seconds: how long.
        core: the processor that wrk may use.
        timeout_s: an answer that takes longer is an error.
        wants_latencies: whether every latency is asked for, which keeps wrk busy for a while after the load.
    """

    port: int
    path: str
    body: bytes | None = None
    connections: int
    seconds: int
    core: int
    timeout_s: int = _TIMEOUT_S
    wants_latencies: bool = False


class WrkAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one load came to, errors and all.

    Attributes:
        num_requests: answers, those with an error status too.
        duration_us: the time.
        p99_ms: as wrk says it, latencies among them that it made up.
        cpu_s: that wrk used until the load was over.
        values: each latency in microseconds with the number of answers that took it, ascending; without those that
            wrk made up. Empty unless they were asked for.
        errors: by wrk's names: connect, read, write, status, timeout.
        in_real_time: whether wrk went before all others on its processor, which not every user may ask for.
    """

    num_requests: int
    duration_us: int
    p99_ms: float
    cpu_s: float
    values: tuple[tuple[int, int], ...]
    errors: dict[str, int]
    in_real_time: bool

    @property
    def duration_s(self) -> float:
        """The time."""
        return self.duration_us / 1e6

    @property
    def load_cpu_share(self) -> float:
        """Of its processor; near 1 would mean that wrk was what was measured."""
        return self.cpu_s / self.duration_s


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
        raise ConfigurationError("wrk", "is needed, and not installed: apt-get install wrk")
    return path


def run_wrk(port: int, body: bytes, connections: int, seconds: int, core: int) -> Answered:
    """POST `body` to the chat endpoint over and over, on one processor.

    Raises:
        BenchError: wrk failed, or a request did.
    """
    load = WrkLoad(port=port, path=_CHAT, body=body, connections=connections, seconds=seconds, core=core)
    before_s = _cpu_of_children_s()
    answer = put_load(load)
    cpu_s = _cpu_of_children_s() - before_s
    num_errors = sum(answer.errors.values())
    if num_errors or not answer.num_requests:
        raise BenchError(f"{num_errors} of {answer.num_requests} requests failed: {answer.errors}")
    return Answered(
        num_requests=answer.num_requests,
        duration_s=answer.duration_s,
        num_errors=num_errors,
        p99_ms=answer.p99_ms,
        load_cpu_share=cpu_s / answer.duration_s,
    )


def put_load(load: WrkLoad) -> WrkAnswer:
    """Ask over and over, and count what came back.

    Raises:
        BenchError: wrk failed.
    """
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        script = Path(directory) / "load.lua"
        script.write_text(_script(load), encoding="utf-8")
        command = [
            *(sys.executable, "-c", _PRELUDE, str(load.core), find_wrk(), "--threads", "1"),
            *("--connections", str(load.connections), "--duration", f"{load.seconds}s"),
            *("--timeout", f"{load.timeout_s}s", "--latency", "--script", str(script)),
            f"http://127.0.0.1:{load.port}{load.path}",
        ]
        try:
            done = subprocess.run(  # noqa: S603  (our own arguments)
                command, capture_output=True, text=True, timeout=load.seconds + _GRACE_S, check=False
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise BenchError(f"wrk: {error}") from error
    if done.returncode:
        raise BenchError(f"wrk ended with {done.returncode}: {(done.stdout + done.stderr)[-500:].strip()}")
    try:
        answer = msgspec.json.decode(done.stdout.splitlines()[-1], type=WrkAnswer)
    except (IndexError, msgspec.MsgspecError) as error:
        raise BenchError(f"wrk said nothing that can be read: {done.stdout[-500:]}") from error
    values = without_made_up(answer.values, answer.num_requests, load.connections, answer.duration_us)
    return msgspec.structs.replace(answer, values=values)


def _script(load: WrkLoad) -> str:
    body = "nil" if load.body is None else f"[==[{load.body.decode()}]==]"
    filled = {
        "METHOD": "GET" if load.body is None else "POST",
        "KEY": API_KEY,
        "WANTED": "#latency" if load.wants_latencies else "0",
        "BODY": body,  # last: what it says is not ours to fill in
    }
    script = _SCRIPT
    for place, text in filled.items():
        script = script.replace(place, text)
    return script


def _cpu_of_children_s() -> float:
    """Of those that have ended and been waited for; servers are not among them before they end."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
