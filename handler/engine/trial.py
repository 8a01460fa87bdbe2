"""Lets a process of its own try what may hang or crash: a line goes in, a line comes out.

The process starts when it is first needed, ends by itself when nothing came for a while, and limits the time that it
computes. Any thread may ask; one is answered at a time. Knows nothing of what is tried.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import weakref

import msgspec

from handler.errors import EngineError, OverloadedError

TIMEOUT_S = 15.0
"""For an answer. A process that computes so long has ended itself: only a busy machine makes it take that long."""

START_TIMEOUT_S = 30.0
MOST_WAITING = 24
"""Who waits holds a thread of the pool, which others need."""

_END_TIMEOUT_S = 1.0
_ATTEMPTS = 2
_RETRY_AFTER_S = 5.0
_ENDED_FROM_OUTSIDE = {0, *(-number for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT))}


class Trial:
    """A process that greets with a line, and then answers each. All that it says are JSON strings.

    An empty one means that all is well, any other says what is not. Its exit status is 0 only where it ends by itself,
    and it ends by SIGPROF where it has computed for too long.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._child: _Child | None = None
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_WAITING)

    def run(self, line: bytes) -> str:
        """Empty if the process finds nothing wrong with a line, else the reason, which is the line's fault.

        Raises:
            EngineError: the process does not start.
            OverloadedError: too many wait, or the machine is too busy to tell.
        """
        if not self._places.acquire(blocking=False):
            raise OverloadedError("Too many grammars wait to be tried; try again later", _RETRY_AFTER_S)
        try:
            with self._lock:
                return self._ask(line)
        finally:
            self._places.release()

    def _ask(self, line: bytes) -> str:
        """Ask the process, and once more if it has ended meanwhile without the line's doing."""
        for _ in range(_ATTEMPTS):
            child = self._child or _Child(self._command)
            self._child = None  # unless it answers
            answer = child.greeting or child.ask(line)
            if answer is not None:
                self._child = child
                return answer
            status = child.end()
            if status == -signal.SIGPROF:
                return "it takes too long"
            if status not in _ENDED_FROM_OUTSIDE:
                return "it is nested too deeply, or takes too much memory"
        raise OverloadedError("The process that tries grammars was ended; try again later", _RETRY_AFTER_S)


class _Child:
    """The process, from its start to its end."""

    def __init__(self, command: list[str]) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603  (our own command line)
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the function, which may have to drain
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # it finds what this process found
            )
        except OSError as error:
            raise EngineError(f"The process that tries grammars does not start: {error}") from error
        self.end = weakref.finalize(self, _end, self._process)
        greeting = self._read_line(START_TIMEOUT_S)
        if greeting is None:
            self.end()
            raise EngineError("The process that tries grammars does not start")
        self.greeting = greeting

    def ask(self, line: bytes) -> str | None:
        """The answer to a line, None if the process ended.

        Raises:
            OverloadedError: it had to be killed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
        except BrokenPipeError:
            return None
        return self._read_line(TIMEOUT_S)

    def _read_line(self, timeout_s: float) -> str | None:
        """A line is short enough to be written at once, so what can be read is whole."""
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                self._process.kill()
                self.end()
                raise OverloadedError("The machine is too busy to try a grammar; try again later", _RETRY_AFTER_S)
        line = stdout.readline()
        return msgspec.json.decode(line, type=str) if line else None


def _end(process: subprocess.Popen[bytes]) -> int:
    """End the process if it has not ended; its exit status."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()  # which ends it, unless it is busy
    process.stdout.close()
    try:
        return process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
