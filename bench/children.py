"""Child processes of the harness: scripts that answer with one JSON object, and servers that listen on a port.

Each child leads a process group of its own, which ends with it. Knows nothing of what they measure.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import msgspec

import bench
from bench.errors import BenchError

_GRACE_S = 30.0
_LOG_LINES = 15

OWN_MODULE = (sys.executable, "-P", "-m")
"""How a module of ours is run: with this interpreter, and not from what lies in the working directory."""


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as an exception does, so that no child outlives it. Main thread only."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def own_environment() -> dict[str, str]:
    """The environment in which a child with any working directory finds this very package."""
    paths = [str(Path(bench.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run_script(
    name: str, command: Sequence[str], spec: object, environ: Mapping[str, str], timeout_s: float
) -> dict[str, Any]:
    """Run `command` with two more arguments, a file that holds `spec` as JSON and a file for its answer; the answer.

    Raises:
        BenchError: it failed, did not end in time, or wrote no JSON object.
    """
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        spec_path, answer_path, log_path = (Path(directory) / file for file in ("spec.json", "answer.json", "log"))
        spec_path.write_bytes(msgspec.json.encode(spec))
        with log_path.open("wb") as log:
            process = _start([*command, str(spec_path), str(answer_path)], environ, log.fileno())
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{name} did not end within {timeout_s:g} s:\n{_tail(log_path)}") from None
        finally:
            _end(process, grace_s=0.0)
        if code != 0:
            raise BenchError(f"{name} ended with {code}:\n{_tail(log_path)}")
        try:
            return msgspec.json.decode(answer_path.read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.MsgspecError) as error:
            raise BenchError(f"{name} gave no answer: {error}\n{_tail(log_path)}") from error


class ServerChild:
    """A server in a process of its own; ready when the `with` block begins, gone when it ends."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        port: int,
        ready_path: str,
        start_s: float,
        poll_s: float = 0.1,
    ) -> None:
        self._name = name
        self._port = port
        self._ready_path = ready_path
        self._start_s = start_s
        self._poll_s = poll_s
        self._directory = tempfile.TemporaryDirectory(prefix="pilotlight-bench-")
        self._log_path = Path(self._directory.name) / "log"
        with self._log_path.open("wb") as log:
            self._process = _start(command, environ, log.fileno())

    def __enter__(self) -> ServerChild:
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _end(self._process, grace_s=_GRACE_S)
        self._directory.cleanup()

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        """Of the server's own process."""
        return self._process.pid

    def end(self) -> int:
        """Ask the server to end, and return its exit code; that of SIGKILL, -9, where it did not end in time."""
        _end(self._process, grace_s=_GRACE_S)
        return self._process.wait()

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + self._start_s
        while not self._is_ready():
            if self._process.poll() is not None:
                raise BenchError(f"{self._name} ended with {self._process.returncode}:\n{_tail(self._log_path)}")
            if time.monotonic() > deadline_s:
                raise BenchError(f"{self._name} was not ready within {self._start_s:g} s:\n{_tail(self._log_path)}")
            time.sleep(self._poll_s)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5.0)
        try:
            connection.request("GET", self._ready_path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start(command: Sequence[str], environ: Mapping[str, str], log: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603  (commands are ours or the user's own interpreter)
            list(command),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be started: {error.strerror}") from error


def _end(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """Ask the process to end, then kill what is left of its group."""
    if process.poll() is None and grace_s:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log_path: Path) -> str:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])
