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

import msgspec

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


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One device as the outside sees it. `error` is what ended its boot or its work."""

    device: str
    state: EngineState
    stats: EngineStats
    error: str | None = None


class Handle:
    """A submitted sequence. `cancel` may be called from any thread, at any time, more than once."""

    __slots__ = ("_cancel", "sequence_id")

    def __init__(self, sequence_id: int, cancel: Callable[[int], None]) -> None:
        self.sequence_id = sequence_id
        self._cancel = cancel

    def cancel(self) -> None:
        """Stop generating and free the sequence's blocks before the next step; the current one may still yield."""
        self._cancel(self.sequence_id)


class _Submission(msgspec.Struct, frozen=True):
    """A sequence on its way to the engine thread."""

    sequence_id: int
    prompt_tokens: list[int]
    params: SamplingParams
    on_event: OnEvent


class Engine:
    """One model on one device in one thread.

    Args:
        snapshot: the model to load.
        options: device, precision and limits.
        timeline: receives the phases of the boot.
        num_threads: CPU threads to compute with, None leaves it to torch.
    """

    def __init__(
        self, snapshot: Snapshot, options: EngineOptions, timeline: BootTimeline, num_threads: int | None = None
    ) -> None:
        self._snapshot = snapshot
        self._options = options
        self._timeline = timeline
        self._num_threads = num_threads
        self._inbox: queue.SimpleQueue[_Submission | Callable[[EngineCore], None] | None] = queue.SimpleQueue()
        self._accepting = threading.Lock()  # a submission comes before the failure that answers it, or is refused
        self._listeners: dict[int, OnEvent] = {}  # engine thread only
        self._refused: list[tuple[OnEvent, TokenEvent]] = []  # engine thread only
        self._ids = itertools.count()
        self._thread: threading.Thread | None = None
        self._model: LoadedModel | None = None
        self._error: PilotlightError | None = None
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

    @property
    def devices(self) -> list[DeviceStatus]:
        """The state of the one device, under the name that the options give it until it is known which one that is."""
        device = self._options.device if self._model is None else self._model.info.device
        error = None if self._error is None else str(self._error)
        return [DeviceStatus(device=device, state=self.state, stats=self.stats, error=error)]

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
        sequence_id = next(self._ids)
        with self._accepting:
            if self.state in {EngineState.FAILED, EngineState.STOPPED}:
                raise EngineError("the engine has ended")
            self._inbox.put(_Submission(sequence_id, prompt_tokens, params, on_event))
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
            listeners = self._fail(error)
            post(partial(on_boot, error))
            if listeners:
                post(partial(_deliver, [(listener, _failed(error)) for listener in listeners]))
            return
        try:
            post(partial(on_boot, None))
            self._serve(core, post)
        except Exception as error:  # without this the thread would die and still call itself ready
            logger.exception("engine thread failed on %s", self._options.device)
            deliveries = [*self._refused, *((listener, _failed(error)) for listener in self._fail(error))]
            with contextlib.suppress(RuntimeError):  # the consumer's loop is closed: nobody waits any more
                post(partial(_deliver, deliveries))
        else:
            self.state = EngineState.STOPPED

    def _fail(self, error: Exception) -> list[OnEvent]:
        """Take no more submissions; everybody who still waits, those whose submission was not even read included."""
        self._error = error if isinstance(error, PilotlightError) else _failed(error).error
        self.stats = msgspec.structs.replace(self.stats, num_running=0, num_waiting=0, kv_blocks_used=0)
        with self._accepting:
            self.state = EngineState.FAILED
        listeners = list(self._listeners.values())
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get(block=False)
                if isinstance(message, _Submission):
                    listeners.append(message.on_event)
        return listeners

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
        with self._timeline.process_phase("import_torch"):
            from handler.engine.devices import enter_device  # noqa: PLC0415
            from handler.engine.loading import load_core  # noqa: PLC0415  (torch takes longer than binding the port)
        enter_device(self._options.device, self._num_threads)
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
                if isinstance(message, _Submission):
                    self._add(core, message)
                else:
                    message(core)
                message = self._inbox.get(block=False)
        except queue.Empty:
            return True
        return False

    def _add(self, core: EngineCore, submission: _Submission) -> None:
        try:
            core.add(submission.sequence_id, submission.prompt_tokens, submission.params)
        except Exception as error:  # one sequence that cannot be followed must not end the others
            logger.exception("a sequence was refused")
            self._refused.append((submission.on_event, _failed(error)))
        else:
            self._listeners[submission.sequence_id] = submission.on_event

    def _step(self, core: EngineCore) -> list[tuple[OnEvent, TokenEvent]]:
        """One step; a failed one fails every sequence, and the engine goes on."""
        try:
            events = core.step()
            events += core.take_begun()
        except Exception as error:  # a step's failure must reach the clients, whatever it is
            logger.exception("engine step failed")
            event = _failed(error)
            core.cancel_all()
            events = [(sequence_id, event) for sequence_id in self._listeners]  # also one whose last event was lost
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
