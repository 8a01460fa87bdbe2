"""What ends a request before its answer is complete: its time is over, or its client has left. Event loop only.

A request's task is cancelled wherever it waits, even in a blocked `send`; `Interruption` says afterwards why that was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Generic, Protocol, TypeVar

from starlette.types import Receive

from handler.errors import ClientDisconnectedError, DeadlineExceededError, PilotlightError, StoppingError
from handler.occupancy import Stay
from handler.shortcut import beside

_UNWATCHED_S = 0.01

WaiterT = TypeVar("WaiterT")


class MayStop(Protocol):
    """What knows whether the server is stopping, as `Admission` does."""

    @property
    def is_stopping(self) -> bool:
        """Whether nobody enters any more."""
        ...


class Interruption:
    """Belongs to the task that made it, which catches the cancellation and asks for the reason.

    Args:
        loop: the one that runs.
        receive: of the request, where its client is to be watched.
        server: that answers it.

    Attributes:
        loop: the one that runs.
        stay: of the request, once it waits for its turn.
        has_body: whether that has been read, so that its client may be watched.
        is_lasting: whether it was not over soon.
        is_watched: whether its client is.
    """

    stay: Stay | None = None
    has_body = False
    is_lasting = False
    is_watched = False
    _reason: PilotlightError | None = None
    _is_over = False
    _watcher: asyncio.Task[None] | None = None
    _on_disconnect: Callable[[Callable[[], None] | None], None] | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive, server: MayStop) -> None:
        task = asyncio.current_task(loop)
        assert task is not None
        self.loop = loop
        self._task = task
        self._receive = receive
        self._server = server

    def interrupt(self, reason: PilotlightError) -> None:
        """Cancel the task; the first reason counts, and none after the end."""
        if self._reason is None and not self._is_over:
            self._reason = reason
            self._task.cancel()

    def watch(self) -> None:
        """Interrupt when the client leaves, once the body has been read: from then on nobody else may receive.

        Where the server can tell, nobody has to wait for that in a task of its own.
        """
        self.is_watched = True
        self._on_disconnect = beside(self._receive, "on_disconnect")
        if self._on_disconnect is None:
            self._watcher = self.loop.create_task(self._wait_for_disconnect())
        else:
            self._on_disconnect(self._note_disconnect)

    def end(self) -> None:
        """The request is over, and its task may go on to something else."""
        self._is_over = True
        if self._on_disconnect is not None:
            self._on_disconnect(None)
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None  # its cancellation refers to this object: a cycle

    def reason(self) -> PilotlightError:
        """Why the task was cancelled.

        What nobody here asked for is the server's end (DRAIN_TIMEOUT ran out), or, in somebody else's server, that it
        noticed itself that the client has left: Ray Serve's cancels the task then.
        """
        if self._reason is not None and not self._task.uncancel():
            return self._reason
        if self._server.is_stopping:
            return StoppingError("The server stopped before the answer was complete")
        return given_up()

    async def _wait_for_disconnect(self) -> None:
        """Ends by itself once the response is complete: ASGI then gives `http.disconnect` to whoever asks."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._note_disconnect()

    def _note_disconnect(self) -> None:
        self.interrupt(ClientDisconnectedError("the client left before its answer was complete"))


class Delay(Generic[WaiterT]):
    """Calls `on_due` with each waiter that is still there `delay_s` after it began.

    All have the same time, so they run out of it in the order in which they began, and one timer for the oldest is
    enough: a request costs an entry in a dictionary instead of a timer of its own.
    """

    def __init__(self, delay_s: float, on_due: Callable[[WaiterT], None]) -> None:
        self._delay_s = delay_s
        self._on_due = on_due
        self._end_s: dict[WaiterT, float] = {}  # oldest first
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, waiter: WaiterT, loop: asyncio.AbstractEventLoop) -> None:
        """Its time runs from now on."""
        end_s = self._end_s[waiter] = loop.time() + self._delay_s
        if self._timer is None:
            self._timer = loop.call_at(end_s, self._check)

    def end(self, waiter: WaiterT) -> None:
        """It waits no longer, if it did."""
        self._end_s.pop(waiter, None)

    def _check(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._end_s:
            waiter, end_s = next(iter(self._end_s.items()))
            if end_s > loop.time():
                self._timer = loop.call_at(end_s, self._check)
                return
            del self._end_s[waiter]
            self._on_due(waiter)


class Deadlines(Delay[Interruption]):
    """Interrupts whoever takes longer than `timeout_s`, of which `elapsed_s` are over when its time begins here."""

    def __init__(self, timeout_s: float, elapsed_s: float = 0.0) -> None:
        super().__init__(timeout_s - elapsed_s, self._interrupt)
        self._timeout_s = timeout_s

    def _interrupt(self, interruption: Interruption) -> None:
        interruption.interrupt(DeadlineExceededError(f"The request took longer than {self._timeout_s:g} s"))


class Supervision:
    """Has requests end in time and with their clients: those that are not over within 10 ms, for the others need not.

    Args:
        timeout_s: that a request may take, longer than that.
        on_watched: called with each whose client is watched from now on.
    """

    def __init__(self, timeout_s: float, on_watched: Callable[[Interruption], None] = lambda _: None) -> None:
        self._on_watched = on_watched
        self._brief = Delay(_UNWATCHED_S, self._note_lasting)
        self._deadlines = Deadlines(timeout_s, _UNWATCHED_S)

    def begin(self, interruption: Interruption) -> None:
        """A request is here."""
        self._brief.begin(interruption, interruption.loop)

    def note_body(self, interruption: Interruption) -> None:
        """Its body has been read."""
        interruption.has_body = True
        if interruption.is_lasting:
            self._watch(interruption)

    def end(self, interruption: Interruption) -> None:
        """It is over."""
        self._brief.end(interruption)
        if interruption.is_lasting:
            self._deadlines.end(interruption)
        interruption.end()

    def _note_lasting(self, interruption: Interruption) -> None:
        interruption.is_lasting = True
        self._deadlines.begin(interruption, interruption.loop)
        if interruption.has_body:
            self._watch(interruption)

    def _watch(self, interruption: Interruption) -> None:
        interruption.watch()
        self._on_watched(interruption)


def given_up() -> ClientDisconnectedError:
    """Why a task was cancelled by a server that goes on."""
    return ClientDisconnectedError("the server gave the request up, as some do when a client leaves")


@contextlib.asynccontextmanager
async def interruptible(receive: Receive, deadlines: Deadlines, server: MayStop) -> AsyncIterator[None]:
    """Cancel the body when the client leaves, or the time that begins now is over.

    Raises:
        ClientDisconnectedError, DeadlineExceededError, StoppingError: in place of the cancellation.
    """
    loop = asyncio.get_running_loop()
    interruption = Interruption(loop, receive, server)
    deadlines.begin(interruption, loop)
    interruption.watch()
    try:
        yield
    except asyncio.CancelledError:
        raise interruption.reason() from None
    finally:
        deadlines.end(interruption)
        interruption.end()
