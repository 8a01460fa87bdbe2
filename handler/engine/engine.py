"""The engine thread: boots the model, takes submissions and cancellations, runs steps, hands over token events.

Knows no asyncio: events leave through `post`, a callable that runs a function on the consumer's thread (an event
loop's `call_soon_threadsafe`), once per step. torch is imported in the thread, so that the function listens before it.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from handler.boot import BootTimeline
from handler.engine.snapshot import Snapshot
from handler.engine.types import (
    EngineOptions,
    EngineStats,
    FinishReason,
    OnEvent,
    SamplingParams,
    TokenEvent,
)
from handler.errors import EngineError, PilotlightError

if TYPE_CHECKING:
    from handler.engine.core import EngineCore
    from handler.engine.loaded import LoadedModel

logger = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], object]
OnBoot = Callable[[PilotlightError | None], None]

_IDLE_WAIT_S = 0.5


class EngineState(enum.StrEnum):
    """Where the engine is in its life."""

    BOOTING = "booting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


class Handle:
    """A submitted sequence. `cancel` may be called from any thread, at any time, more than once."""

    __slots__ = ("_cancel", "sequence_id")

    def __init__(self, sequence_id: int, cancel: Callable[[int], None]) -> None:
        self.sequence_id = sequence_id
        self._cancel = cancel

    def cancel(self) -> None:
        """Stop generating and free the sequence's blocks before the next step; the current one may still yield."""
        self._cancel(self.sequence_id)


class Engine:
    """One model on one device in one thread.

    Args:
        snapshot: the model to load.
        options: device, precision and limits.
        timeline: receives the phases of the boot.
    """

    def __init__(self, snapshot: Snapshot, options: EngineOptions, timeline: BootTimeline) -> None:
        self._snapshot = snapshot
        self._options = options
        self._timeline = timeline
        self._inbox: queue.SimpleQueue[Callable[[EngineCore], None] | None] = queue.SimpleQueue()
        self._listeners: dict[int, OnEvent] = {}  # engine thread only
        self._refused: list[tuple[OnEvent, TokenEvent]] = []  # engine thread only
        self._ids = itertools.count()
        self._thread: threading.Thread | None = None
        self._model: LoadedModel | None = None
        self.state = EngineState.BOOTING
        self.heartbeat_s = time.monotonic()
        self.stats = EngineStats()

    @property
    def snapshot(self) -> Snapshot:
        """What is served, known before it is loaded."""
        return self._snapshot

    @property
    def model(self) -> LoadedModel | None:
        """The loaded model, None until the engine is ready."""
        return self._model

    def start(self, post: Post, on_boot: OnBoot) -> None:
        """Begin booting in the engine's thread and return at once.

        Args:
            post: runs a function on the thread that wants the events.
            on_boot: called through `post` when the engine is ready (None) or has failed (the error).
        """
        self._thread = threading.Thread(target=self._run, args=(post, on_boot), name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        """Queue a sequence; `on_event` receives its events through `post`, the last one with a finish reason.

        Raises:
            EngineError: the engine has ended.
        """
        if self.state in {EngineState.FAILED, EngineState.STOPPED}:
            raise EngineError("the engine has ended")
        sequence_id = next(self._ids)

        def add(core: EngineCore) -> None:
            try:
                core.add(sequence_id, prompt_tokens, params)
            except Exception as error:  # one sequence that cannot be followed must not end the others
                logger.exception("a sequence was refused")
                self._refused.append((on_event, _failed(error)))
            else:
                self._listeners[sequence_id] = on_event

        self._inbox.put(add)
        return Handle(sequence_id, self._cancel)

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its current step; what still runs is dropped. False if it did not end in time."""
        self._inbox.put(None)
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def is_alive(self, max_silence_s: float) -> bool:
        """Whether the thread has shown a sign of life within `max_silence_s`; booting counts as life."""
        if self.state is EngineState.BOOTING:
            return True
        return self.state is EngineState.READY and time.monotonic() - self.heartbeat_s <= max_silence_s

    def _cancel(self, sequence_id: int) -> None:
        def cancel(core: EngineCore) -> None:
            self._listeners.pop(sequence_id, None)
            core.cancel(sequence_id)

        self._inbox.put(cancel)

    def _run(self, post: Post, on_boot: OnBoot) -> None:
        try:
            core = self._boot()
        except Exception as error:
            if not isinstance(error, PilotlightError):
                logger.exception("engine boot failed")
                error = EngineError(f"the engine could not boot: {error}")
            self.state = EngineState.FAILED
            post(partial(on_boot, error))
            return
        try:
            post(partial(on_boot, None))
            self._serve(core, post)
        except Exception as error:  # without this the thread would die and still call itself ready
            logger.exception("engine thread failed")
            self.state = EngineState.FAILED
            event = _failed(error)
            with contextlib.suppress(RuntimeError):  # the consumer's loop is closed: nobody waits any more
                post(partial(_deliver, [(listener, event) for listener in self._listeners.values()]))
        else:
            self.state = EngineState.STOPPED

    def _serve(self, core: EngineCore, post: Post) -> None:
        while self._handle_inbox(core):
            self.heartbeat_s = time.monotonic()
            deliveries, self._refused = self._refused, []
            had_work = core.has_work
            if had_work:
                deliveries += self._step(core)
            self.stats = core.stats()
            if deliveries:
                post(partial(_deliver, deliveries))
            if not had_work:
                core.idle()

    def _boot(self) -> EngineCore:
        with self._timeline.phase("import_torch"):
            from handler.engine.core import load_core  # noqa: PLC0415  (torch takes longer than binding the port)
        core = load_core(self._snapshot, self._options, self._timeline)
        self._model = core.model
        self.stats = core.stats()
        self.heartbeat_s = time.monotonic()
        self.state = EngineState.READY
        self._timeline.mark_ready()
        return core

    def _handle_inbox(self, core: EngineCore) -> bool:
        """Do what the other threads asked for, waiting for it if there is nothing else to do. False: stop."""
        try:
            message = self._inbox.get(block=not core.has_work, timeout=_IDLE_WAIT_S)
            while message is not None:
                message(core)
                message = self._inbox.get(block=False)
        except queue.Empty:
            return True
        return False

    def _step(self, core: EngineCore) -> list[tuple[OnEvent, TokenEvent]]:
        """One step; a failed one fails every sequence, and the engine goes on."""
        try:
            events = core.step()
        except Exception as error:  # a step's failure must reach the clients, whatever it is
            logger.exception("engine step failed")
            event = _failed(error)
            events = [(sequence_id, event) for sequence_id in core.cancel_all()]
        deliveries = []
        for sequence_id, event in events:
            finished = event.finish_reason is not None
            listener = self._listeners.pop(sequence_id) if finished else self._listeners[sequence_id]
            deliveries.append((listener, event))
        return deliveries


def _failed(error: Exception) -> TokenEvent:
    failure = error if isinstance(error, EngineError) else EngineError(f"the engine failed: {type(error).__name__}")
    return TokenEvent(finish_reason=FinishReason.ERROR, error=failure)


def _deliver(deliveries: list[tuple[OnEvent, TokenEvent]]) -> None:
    for listener, event in deliveries:
        listener(event)
