"""Lets a process of its own try what may hang or crash: a line goes in, a line comes out.

The process starts when it is first needed, ends by itself when nothing came for a while, and is killed when an answer
takes too long. Any thread may ask; one is answered at a time. Knows nothing of what is tried.
"""

from __future__ import annotations

import selectors
import subprocess
import threading
import weakref

import msgspec

from handler.errors import EngineError

TIMEOUT_S = 3.0
START_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 1.0


class Trial:
    """A process that greets with a line, and then answers each. All that it says are JSON strings.

    An empty one means that all is well, any other says what is not. Its exit status is 0 only where it ends by itself.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._child: _Child | None = None
        self._lock = threading.Lock()

    def run(self, line: bytes) -> str:
        """Empty if the process finds nothing wrong with a line, else the reason.

        Raises:
            EngineError: the process does not start.
        """
        with self._lock:
            if self._child is None:
                self._child = _Child(self._command)
            child = self._child
            answer = child.greeting or child.ask(line)
            if answer is None and child.end() == 0:  # it waited long enough
                self._child = child = _Child(self._command)
                answer = child.greeting or child.ask(line)
            if answer is None:
                self._child = None
                child.end()
                return child.verdict
            return answer


class _Child:
    """The process, from its start to its end."""

    def __init__(self, command: list[str]) -> None:
        self.verdict = "it is nested too deeply, or takes too much memory"
        self._process = subprocess.Popen(  # noqa: S603  (our own command line)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the function, which may have to drain
        )
        self.end = weakref.finalize(self, _end, self._process)
        greeting = self._read_line(START_TIMEOUT_S)
        if greeting is None:
            self.end()
            raise EngineError("The process that tries grammars does not start")
        self.greeting = greeting

    def ask(self, line: bytes) -> str | None:
        """The answer to a line, None if the process ended or had to be killed: `verdict` says what that means."""
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
                self.verdict = f"it takes more than {timeout_s:g} s"
                return None
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
