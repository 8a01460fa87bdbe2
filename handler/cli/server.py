"""uvicorn's server with an end of our own: it answers until nobody waits any more, and says why it exits."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType

import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER

from handler.errors import ConfigurationError
from handler.logs import FIELDS
from handler.service import Service

EXIT_GOOD, EXIT_FAILED, EXIT_MISCONFIGURED, EXIT_LOST = range(4)

LOST_GRACE_S = 10.0
"""What probes get to see that the engine is lost, before the process ends for those who do not ask."""
_LAST_WORDS_S = 2.0
"""For answers that are cut off to say so, and the same again for slow clients to read what was written."""
_FIRST_WORD_S = 5.0
"""For a client that has connected in the last moment to say what it wants."""
_LOOK_INTERVAL_S = 0.02

logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """Ends on SIGTERM and SIGINT in three steps.

    At once `/ready` is 503 and new requests are refused with 503, on new connections as well, for whoever routes them
    here learns late that we are stopping: so the listening socket stays open. What was accepted before goes on for
    `drain_timeout_s`, or until a second signal. What is left then is told so, and the application stops.

    Args:
        config: of uvicorn.
        service: whose requests are waited for.
        drain_timeout_s: seconds that they get.
        lost_grace_s: seconds from the loss of the engine to the end of the process.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain_timeout_s: float, lost_grace_s: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_timeout_s = drain_timeout_s
        self._lost_grace_s = lost_grace_s
        self._ends_idle = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, stop on the second. Does not call the base, which raises the signal again.

        Logs through the loop: the signal may have come in the middle of a write to the same stream.
        """
        del frame
        self._turn_away()
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        fields = {"signal": signal.Signals(sig).name}
        asyncio.get_running_loop().call_soon_threadsafe(partial(logger.info, "stopping", extra={FIELDS: fields}))

    def end_when_idle(self) -> None:
        """End by ourselves, and refuse nobody: who has connected is answered, and who comes now waits in the socket.

        It is somebody else's as well, who will start another process for them.
        """
        self._ends_idle = self.should_exit = True
        logger.info("stopping", extra={FIELDS: {"idle": True}})

    def end_after_loss(self) -> None:
        """End soon by ourselves: no probe need ever have asked."""
        self._turn_away()

        def end() -> None:
            self.should_exit = True

        asyncio.get_running_loop().call_later(self._lost_grace_s, end)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """In place of uvicorn's own, which stops listening first and never waits for those that it cancels."""
        state, occupancy = self.server_state, self._service.admission.occupancy
        if self._ends_idle:
            await self._answer_the_last(sockets or ())
        self._turn_away()
        is_drained = await self._until(lambda: self.force_exit or not occupancy.num_admitted, self._drain_timeout_s)
        self._stop_listening(sockets or ())
        for connection in list(state.connections):
            connection.shutdown()
        if is_drained and not self.force_exit:
            await self._until(lambda: self.force_exit or not state.tasks, _LAST_WORDS_S)  # none that generates
        if state.tasks:
            logger.warning("stopping with %d requests unanswered", len(state.tasks))
        for task in list(state.tasks):
            task.cancel()
        await self._until(lambda: not state.tasks, _LAST_WORDS_S)
        await self._until(lambda: not state.connections, _LAST_WORDS_S)
        await self.lifespan.shutdown()

    async def _answer_the_last(self, sockets: Sequence[socket.socket]) -> None:
        """Accept nobody else, and answer those who were accepted a moment ago. A signal ends the wait."""
        state = self.server_state
        self._stop_listening(sockets)
        await asyncio.sleep(_LOOK_INTERVAL_S)  # those that are being accepted become connections

        def has_answered() -> bool:
            waiting = any(getattr(connection, "cycle", None) is None for connection in state.connections)
            return self._service.admission.is_stopping or not (waiting or state.tasks)

        await self._until(has_answered, _FIRST_WORD_S)

    def _stop_listening(self, sockets: Sequence[socket.socket]) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()

    def _turn_away(self) -> None:
        """Take no new requests; whoever is answered from now on shall ask somebody else next."""
        self._service.admission.is_stopping = True
        if CLOSE_HEADER not in self.config.encoded_headers:
            self.config.encoded_headers.append(CLOSE_HEADER)  # uvicorn makes the default headers anew each second
            self.server_state.default_headers.append(CLOSE_HEADER)

    @staticmethod
    async def _until(condition: Callable[[], object], timeout_s: float) -> bool:
        """Wait for what nobody signals; False if it did not come true in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= deadline_s:
                return False
            await asyncio.sleep(_LOOK_INTERVAL_S)
        return True


def exit_code(service: Service) -> int:
    """What the process ends with, once it has served."""
    if service.is_lost:
        return EXIT_LOST
    if service.boot_error is None:
        return EXIT_GOOD
    return EXIT_MISCONFIGURED if isinstance(service.boot_error, ConfigurationError) else EXIT_FAILED
