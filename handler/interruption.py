"""What ends a request before its answer is complete: its time is over, or its client has left. Event loop only.

A request's task is cancelled wherever it waits, even in a blocked `send`; `Interruption` says afterwards why that was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.types import Receive

from handler.errors import ClientDisconnectedError, DeadlineExceededError, PilotlightError, StoppingError


class Interruption:
    """Belongs to the task that made it, which catches the cancellation and asks for the reason."""

    __slots__ = ("_is_over", "_reason", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task(loop)
        assert task is not None
        self._task = task
        self._reason: PilotlightError | None = None
        self._is_over = False

    def interrupt(self, reason: PilotlightError) -> None:
        """Cancel the task; the first reason counts, and none after the end."""
        if self._reason is None and not self._is_over:
            self._reason = reason
            self._task.cancel()

    def end(self) -> None:
        """The request is over, and its task may go on to something else."""
        self._is_over = True

    def reason(self) -> PilotlightError:
        """Why the task was cancelled; what nobody here asked for is the server's end (DRAIN_TIMEOUT ran out)."""
        if self._reason is None or self._task.uncancel() > 0:
            return StoppingError("The server stopped before the answer was complete")
        return self._reason


class Deadlines:
    """Interrupts whoever takes longer than `timeout_s`.

    All have the same time, so they run out of it in the order in which they began, and one timer for the oldest is
    enough: a request costs an entry in a dictionary instead of a timer of its own.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end_s: dict[Interruption, float] = {}  # oldest first
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, interruption: Interruption, loop: asyncio.AbstractEventLoop) -> None:
        """Its time runs from now on."""
        end_s = self._end_s[interruption] = loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = loop.call_at(end_s, self._check)

    def end(self, interruption: Interruption) -> None:
        """It has ended, or was interrupted."""
        self._end_s.pop(interruption, None)

    def _check(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._end_s:
            interruption, end_s = next(iter(self._end_s.items()))
            if end_s > loop.time():
                self._timer = loop.call_at(end_s, self._check)
                return
            del self._end_s[interruption]
            interruption.interrupt(DeadlineExceededError(f"The request took longer than {self._timeout_s:g} s"))


@contextlib.asynccontextmanager
async def interruptible(receive: Receive, deadlines: Deadlines) -> AsyncIterator[None]:
    """Cancel the body when the client leaves, or the time that begins now is over.

    Raises:
        ClientDisconnectedError, DeadlineExceededError, StoppingError: in place of the cancellation.
    """
    loop = asyncio.get_running_loop()
    interruption = Interruption(loop)
    deadlines.begin(interruption, loop)
    watcher = loop.create_task(interrupt_on_disconnect(receive, interruption))
    try:
        yield
    except asyncio.CancelledError:
        raise interruption.reason() from None
    finally:
        deadlines.end(interruption)
        interruption.end()
        watcher.cancel()


async def interrupt_on_disconnect(receive: Receive, interruption: Interruption) -> None:
    """Interrupt when the client leaves. To be run in a task beside the request's own.

    Ends by itself once the response is complete: ASGI then gives `http.disconnect` to whoever asks.
    """
    while (await receive())["type"] != "http.disconnect":
        pass
    interruption.interrupt(ClientDisconnectedError("the client left before its answer was complete"))
