"""A function that is not there while nobody asks: what its users see, over idle periods of all lengths.

A manager holds the listening socket, as systemd does, starts the function when somebody connects, and again when
somebody does after it has ended by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.client import Endpoint, attempt_chat
from bench.coldstart.starts import Server
from bench.errors import BenchError
from bench.rounds import Measurement

IDLE_S = 1.0
"""After which it ends: short, so that many ends fit into a minute. How long it takes to start does not depend on it."""

_ANSWER_S = 600.0
_END_S = 60.0
_LOOK_MS = 50
_MAX_TOKENS = 2
_EARLIEST, _LATEST = 0.8, 1.4
"""Of the idle time: between these lies the end, and requests come in the midst of it."""

# sd_listen_fds(3): the socket becomes descriptor 3, and who it is for is a process that this shell is about to become.
_HAND_OVER = 'exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'


class Manager:
    """Holds a listening socket and starts the function when somebody waits there. A thread of its own does so.

    Attributes:
        port: that it listens on.
        num_starts: so far.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log_path: Path) -> None:
        self._command = ["/bin/sh", "-c", _HAND_OVER, "sh", *command]
        self._environ = dict(environ)
        self._log_path = log_path
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.num_starts = 0
        self._stopping = False
        self._gone = threading.Event()
        self._gone.set()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="socket-manager", daemon=True)

    def __enter__(self) -> Manager:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        self._thread.join(_END_S)
        self._listener.close()

    def wait_until_gone(self) -> None:
        """Return when it has ended by itself.

        Raises:
            BenchError: it has not, or with an error.
        """
        if not self._gone.wait(IDLE_S + _END_S):
            raise BenchError("the function did not end, though nobody asked")
        self.check()

    def check(self) -> None:
        """Raise BenchError if it has ever ended with an error."""
        if self._failure is not None:
            raise BenchError(self._failure)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while not self._stopping:
            if not poll.poll(_LOOK_MS):
                continue
            self._gone.clear()
            self.num_starts += 1
            with self._log_path.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603  (our own command)
                    self._command, env=self._environ, stdin=self._listener.fileno(), stdout=log, stderr=log
                )
            code = self._process.wait()
            if code and not self._stopping:
                self._failure = f"the function ended with {code}:\n{self._log_path.read_text(errors='replace')[-2000:]}"
                self._stopping = True
            self._gone.set()


class ScaleToZero:
    """In each round: a first request, one at once, one after an end, and one at a moment in the midst of an end.

    Args:
        server: the function.
        prompt: what is asked.
        prepare: what is done before each round.
        seed: of the moments.
    """

    name = "scale-to-zero"

    def __init__(self, server: Server, prompt: str, prepare: Callable[[], None], seed: int) -> None:
        self._server = server
        self._prompt = prompt
        self._prepare = prepare
        self._seed = seed

    def measure(self, round_number: int) -> Measurement:
        """Seconds from connecting to the first token of each; how many were lost, and how many starts it took."""
        rng = random.Random(self._seed * 1000 + round_number)  # noqa: S311  (moments)
        self._prepare()
        with self._managed() as manager:
            lost: list[str] = []
            first_s = self._ask(manager, lost)
            warm_s = self._ask(manager, lost)
            manager.wait_until_gone()
            second_s = self._ask(manager, lost)
            late_s = self._ask(manager, lost, after_s=IDLE_S * rng.uniform(_EARLIEST, _LATEST))
            manager.check()
        figures = {
            "cold_first_token_s": [each for each in (first_s, second_s) if each is not None],
            "warm_first_token_s": [] if warm_s is None else [warm_s],
            "late_first_token_s": [] if late_s is None else [late_s],
        }
        metrics = {name: statistics.fmean(values) for name, values in figures.items() if values}
        metrics |= {"lost": float(len(lost)), "starts": float(manager.num_starts)}
        return Measurement(metrics=metrics, details={"lost": lost})

    @contextlib.contextmanager
    def _managed(self) -> Iterator[Manager]:
        with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
            environ = {key: value.replace("{directory}", directory) for key, value in self._server.environ.items()}
            environ["IDLE_TIMEOUT"] = str(IDLE_S)
            command = [part for part in self._server.command if part not in {"--port", "{port}"}]
            with Manager(command, environ, Path(directory) / "log") as manager:
                yield manager

    def _ask(self, manager: Manager, lost: list[str], after_s: float = 0.0) -> float | None:
        """Seconds until the first token; None if the request was lost, which is noted."""
        endpoint = Endpoint(host="127.0.0.1", port=manager.port, model=self._server.model, extra=self._server.extra)

        async def ask() -> float | None:
            await asyncio.sleep(after_s)
            try:
                attempt = await attempt_chat(endpoint, self._prompt, _MAX_TOKENS, _ANSWER_S)
            except BenchError as error:
                manager.check()
                lost.append(str(error))
                return None
            if attempt.sample is None:
                lost.append(f"answered with {attempt.status}")
                return None
            return attempt.sample.ttft_s

        return asyncio.run(ask())
