"""The engine thread: boots the model, takes submissions and cancellations, runs steps, hands over token events.

Knows no asyncio: events leave through `post`, a callable that runs a function on the consumer's thread (an event
loop's `call_soon_threadsafe`), once per step. torch is imported in the thread, so that the function listens before it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from handler.boot import BootTimeline
from handler.engine.events import OnEvent, TokenEvent, failure_event
from handler.engine.listeners import Handle, Listeners, OnBoot, Post
from handler.engine.options import EngineOptions
from handler.engine.pulse import Pulse
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.engine.status import DeviceStatus, EngineState, EngineStats
from handler.errors import EngineError, EngineLostError, PilotlightError

if TYPE_CHECKING:
    from handler.engine.core import EngineCore
    from handler.engine.loaded import LoadedModel
    from handler.engine.text import ModelText

logger = logging.getLogger(__name__)

_IDLE_WAIT_S = 0.5


class Engine:
    """One model on one device in one thread.

    Args:
        snapshot: the model to load.
        options: device, precision and limits.
        timeline: receives the phases of the boot.
        num_threads: CPU threads to compute with, None leaves it to torch.
        text: of the snapshot, where it has been read already.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        options: EngineOptions,
        timeline: BootTimeline,
        num_threads: int | None = None,
        text: ModelText | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._options = options
        self._timeline = timeline
        self._num_threads = num_threads
        self._text = text
        self._inbox: queue.SimpleQueue[Callable[[EngineCore], None] | None] = queue.SimpleQueue()  # None: stop
        self._accepting = threading.Lock()  # a submission comes before the failure that answers it, or is refused
        self._listeners = Listeners()
        self._refused: list[tuple[int, TokenEvent]] = []  # engine thread only
        self._pulse = Pulse()
        self._given_up = threading.Event()
        self._ids = itertools.count()
        self._thread: threading.Thread | None = None
        self._model: LoadedModel | None = None
        self._error: PilotlightError | None = None
        self.state = EngineState.BOOTING
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
            EngineLostError: the engine has ended.
        """
        sequence_id = next(self._ids)
        with self._accepting:
            if self.state in {EngineState.FAILED, EngineState.STOPPED}:
                raise EngineLostError("the engine has ended")
            self._listeners.add(sequence_id, on_event)
            self._inbox.put(partial(self._add, sequence_id, prompt_tokens, params))
        return Handle(sequence_id, self._cancel)

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its current step; what still runs is dropped. False if it did not end in time.

        A thread that was given up is not waited for: it is a daemon, and ends with the process.
        """
        self._inbox.put(None)
        if self._thread is None:
            return True
        self._thread.join(0.0 if self._given_up.is_set() else timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Whether it does its work or is on the way to it; `watch` finds out if it hangs."""
        return self.state in {EngineState.BOOTING, EngineState.READY}

    def watch(self, elapsed_s: float, timeout_s: float) -> None:
        """Give the thread up if nothing has been heard of it for `timeout_s`; everybody who waits is told at once.

        To be called again and again on the consumer's thread. `elapsed_s` is the time since the last call in which the
        thread could have run: what the whole process was stopped for does not count.
        """
        if self.state is not EngineState.READY:
            return
        if self._pulse.silence_s(elapsed_s) >= timeout_s:
            self._given_up.set()
            logger.error("the engine on %s hangs: a step has not ended for %g s", self._options.device, timeout_s)
            self._fail(EngineLostError(f"the engine hangs: a step has not ended for {timeout_s:g} s"))

    def _cancel(self, sequence_id: int) -> None:
        self._listeners.drop(sequence_id)
        self._inbox.put(partial(_cancel_in, sequence_id))

    def _run(self, post: Post, on_boot: OnBoot) -> None:
        try:
            core = self._boot()
        except Exception as error:
            if not isinstance(error, PilotlightError):
                logger.exception("engine boot failed")
                error = EngineError(f"the engine could not boot: {error}")
            self._end(error)
            post(partial(on_boot, error))
            post(partial(self._fail, error))
            return
        try:
            post(partial(on_boot, None))
            self._serve(core, post)
        except Exception as error:  # without this the thread would die and still call itself ready
            logger.exception("engine thread failed on %s", self._options.device)
            failure = error if isinstance(error, EngineLostError) else EngineLostError(_described(error))
            self._end(failure)
            with contextlib.suppress(RuntimeError):  # the consumer's loop is closed: nobody waits any more
                post(partial(self._fail, failure))
        else:
            if not self._given_up.is_set():
                self.state = EngineState.STOPPED

    def _end(self, error: PilotlightError) -> None:
        """Take no more submissions; the first reason stays."""
        with self._accepting:
            if self.state is not EngineState.FAILED:
                self._error, self.state = error, EngineState.FAILED
        self.stats = msgspec.structs.replace(self.stats, num_running=0, num_waiting=0, kv_blocks_used=0)

    def _fail(self, error: PilotlightError) -> None:
        """Tell everybody who still waits, those whose submission was not even read included. Consumer's thread."""
        self._end(error)
        failure = error if isinstance(error, EngineError) else EngineLostError(_described(error))
        self._listeners.tell_all(failure_event(failure))

    def _serve(self, core: EngineCore, post: Post) -> None:
        while self._handle_inbox(core) and not self._given_up.is_set():
            self._pulse.beat()
            deliveries, self._refused = self._refused, []
            had_work = core.has_work
            if had_work:
                deliveries += self._step(core)
            if self._given_up.is_set():
                return
            self.stats = core.stats()
            if deliveries:
                post(partial(self._listeners.tell, deliveries))
            if not had_work:
                core.idle()

    def _boot(self) -> EngineCore:
        with self._timeline.process_phase("import_torch"):
            from handler.engine.devices import enter_device  # noqa: PLC0415
            from handler.engine.loading import load_core  # noqa: PLC0415  (torch takes longer than binding the port)
        enter_device(self._options.device, self._num_threads, self._timeline)
        core = load_core(self._snapshot, self._options, self._timeline, self._text)
        self._model = core.model
        self.stats = core.stats()
        self._pulse.beat()
        self.state = EngineState.READY
        self._timeline.mark_ready()
        return core

    def _handle_inbox(self, core: EngineCore) -> bool:
        """Do what the other threads asked for, waiting for it if there is nothing else to do. False: stop."""
        try:
            message = self._next_message(core)
            while message is not None:
                message(core)
                message = self._inbox.get(block=False)
        except queue.Empty:
            return True
        return False

    def _next_message(self, core: EngineCore) -> Callable[[EngineCore], None] | None:
        """The first message that there is, waited for if there is nothing else to do."""
        is_idle = self._pulse.is_resting = not core.has_work
        try:
            return self._inbox.get(block=is_idle, timeout=_IDLE_WAIT_S)
        finally:
            self._pulse.is_resting = False

    def _add(self, sequence_id: int, prompt_tokens: list[int], params: SamplingParams, core: EngineCore) -> None:
        try:
            core.add(sequence_id, prompt_tokens, params)
        except Exception as error:  # one sequence that cannot be followed must not end the others
            logger.exception("a sequence was refused")
            self._refused.append((sequence_id, failure_event(error)))

    def _step(self, core: EngineCore) -> list[tuple[int, TokenEvent]]:
        """One step; the core knows what to do when the device fails, and a defect of ours fails every sequence."""
        try:
            return core.step() + core.take_begun()
        except EngineLostError:
            raise
        except Exception as error:  # a step's failure must reach the clients, whatever it is
            logger.exception("engine step failed")
            return core.fail_all(error)


def _cancel_in(sequence_id: int, core: EngineCore) -> None:
    core.cancel(sequence_id)


def _described(error: Exception) -> str:
    return f"the engine failed: {type(error).__name__}"
