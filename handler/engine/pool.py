"""One engine thread for each device, behind the same surface as one engine: places, boots, routes and stops them.

Engines boot side by side; the pool is ready with the first of them, and sequences go to those that are ready. A device
that fails to boot is left out while others serve. One that fails later ends its own sequences with an error and is
left out as well, but then the pool is no longer alive: what broke a device in mid-work (a lost context, a step that
never ends) is mended by a new process only. Any thread may call; `post` runs what the engines have to say.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from handler.boot import BootTimeline
from handler.engine.devices import Placement, place_engines
from handler.engine.engine import Engine
from handler.engine.events import OnEvent, TokenEvent
from handler.engine.lean_torch import begin_to_load_libraries
from handler.engine.listeners import Handle, OnBoot, Post
from handler.engine.loaded import LoadedModel
from handler.engine.options import EngineOptions
from handler.engine.router import Router
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.engine.status import DeviceStatus, EngineState, EngineStats
from handler.errors import EngineError, EngineLostError, PilotlightError

if TYPE_CHECKING:
    from handler.engine.text import ModelText

logger = logging.getLogger(__name__)


class EngineType(Protocol):
    """What makes the engine of one device, as `Engine` itself does."""

    def __call__(
        self,
        snapshot: Snapshot,
        options: EngineOptions,
        timeline: BootTimeline,
        num_threads: int | None,
        text: ModelText | None,
    ) -> Engine:
        """Make it; it is started later."""
        ...


class EnginePool:
    """The same model on every device that the options name.

    Args:
        snapshot: the model to load.
        options: as for one engine, but `device` may name several; limits hold for each engine.
        timeline: receives the phases of the boot, those of each device by its name where there are several.
        place: which engines to run; called in a thread of its own, where it may import torch.
        engine_type: makes the engine of one device.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        options: EngineOptions,
        timeline: BootTimeline,
        place: Callable[[EngineOptions], list[Placement]] = place_engines,
        engine_type: EngineType = Engine,
    ) -> None:
        self._snapshot = snapshot
        self._options = options
        self._timeline = timeline
        self._place = place
        self._engine_type = engine_type
        self._lock = threading.Lock()  # while engines are made, chosen, counted, or told to stop
        self._engines: list[Engine] = []  # assigned once
        self._router = Router(0, options.max_batch_size)
        self._engine_of: dict[int, int] = {}  # sequences that have not ended
        self._ids = itertools.count()
        self._thread: threading.Thread | None = None
        self._has_reported = False
        self._has_failed = False
        self._is_stopping = False

    @property
    def snapshot(self) -> Snapshot:
        """What is served, known before it is loaded."""
        return self._snapshot

    @property
    def model(self) -> LoadedModel | None:
        """The loaded model, None until an engine is ready. Engines differ in their `info`'s device and cache size."""
        return next((engine.model for engine in self._engines if engine.model is not None), None)

    @property
    def state(self) -> EngineState:
        """Ready while any engine is."""
        if self._has_failed:
            return EngineState.FAILED
        states = {engine.state for engine in self._engines}
        for state in (EngineState.READY, EngineState.BOOTING, EngineState.FAILED):
            if state in states:
                return state
        return EngineState.STOPPED if self._is_stopping else EngineState.BOOTING

    @property
    def stats(self) -> EngineStats:
        """The engines' sums."""
        return add_stats(engine.stats for engine in self._engines)

    @property
    def devices(self) -> list[DeviceStatus]:
        """The state of each device, none before they are known."""
        return [status for engine in self._engines for status in engine.devices]

    def start(self, post: Post, on_boot: OnBoot) -> None:
        """Begin booting in threads and return at once.

        Args:
            post: runs a function on the thread that wants the events.
            on_boot: called once through `post`, when the first engine is ready (None) or all have failed (the error).
        """
        self._thread = threading.Thread(target=self._boot, args=(post, on_boot), name="engine-pool", daemon=True)
        self._thread.start()

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        """Queue a sequence; `on_event` receives its events through `post`, the last one with a finish reason.

        Raises:
            EngineLostError: no engine is ready.
        """
        with self._lock:
            ready = [i for i, engine in enumerate(self._engines) if engine.state is EngineState.READY]
            if not ready:
                raise EngineLostError("no engine is ready")
            sequence_id = next(self._ids)
            chosen = self._router.choose(prompt_tokens, ready)
            self._engine_of[sequence_id] = chosen

        def deliver(event: TokenEvent) -> None:
            if event.finish_reason is not None:
                self._end(sequence_id)
            on_event(event)

        def cancel(_: int) -> None:
            self._end(sequence_id)
            handle.cancel()

        try:
            handle = self._engines[chosen].submit(prompt_tokens, params, deliver)
        except EngineLostError:  # it failed a moment ago
            self._end(sequence_id)
            raise
        return Handle(sequence_id, cancel)

    def stop(self, timeout_s: float) -> bool:
        """End all engines after their current steps; what still runs is dropped. False if one did not end in time."""
        deadline_s = time.monotonic() + timeout_s
        with self._lock:  # an engine that is not there yet will not be started
            self._is_stopping = True
        for engine in self._engines:
            engine.stop(0.0)
        if self._thread is not None:
            self._thread.join(timeout_s)
        has_ended = [engine.stop(max(0.0, deadline_s - time.monotonic())) for engine in self._engines]
        return all(has_ended) and (self._thread is None or not self._thread.is_alive())

    @property
    def is_alive(self) -> bool:
        """Whether every engine that once was ready does its work, or one boots."""
        if self.state not in {EngineState.BOOTING, EngineState.READY}:
            return False
        return all(engine.is_alive for engine in self._engines if engine.model is not None)

    def watch(self, elapsed_s: float, timeout_s: float) -> None:
        """Give up engines that hang, each by itself; as for one engine."""
        for engine in self._engines:
            engine.watch(elapsed_s, timeout_s)

    def _boot(self, post: Post, on_boot: OnBoot) -> None:
        try:
            with self._timeline.process_phase("tokenizer"):
                from handler.engine.text import read_text  # noqa: PLC0415  (nothing of it is needed to listen)

                libraries = begin_to_load_libraries()
                text = read_text(self._snapshot.directory)
            with self._timeline.process_phase("import_torch"):
                libraries.join()
                placements = self._place(self._options)
        except Exception as error:
            if not isinstance(error, PilotlightError):
                logger.exception("the engines could not be placed")
                error = EngineError(f"the engines could not be placed: {error}")
            self._has_failed = True
            post(partial(on_boot, error))
            return
        with self._lock:
            if self._is_stopping:
                return
            self._router = Router(len(placements), self._options.max_batch_size)
            self._engines = [self._engine(placement, text, is_alone=len(placements) == 1) for placement in placements]
            for engine in self._engines:
                engine.start(post, partial(self._on_engine_boot, engine, on_boot))

    def _engine(self, placement: Placement, text: ModelText, *, is_alone: bool) -> Engine:
        options = msgspec.structs.replace(self._options, device=placement.device)
        timeline = self._timeline if is_alone else self._timeline.for_device(placement.device)
        return self._engine_type(self._snapshot, options, timeline, placement.num_threads, text)

    def _on_engine_boot(self, engine: Engine, on_boot: OnBoot, error: PilotlightError | None) -> None:
        """One engine's boot has ended. Runs where `post` runs functions, so never twice at a time."""
        (status,) = engine.devices
        if len(self._engines) > 1:
            if error is None:
                logger.info("device %s is ready", status.device)
            else:
                logger.error("device %s could not boot: %s", status.device, error)
        if not self._has_reported and (error is None or self.state is EngineState.FAILED):
            self._has_reported = True
            on_boot(error)

    def _end(self, sequence_id: int) -> None:
        """Take a sequence off its engine's load, once."""
        with self._lock:
            engine = self._engine_of.pop(sequence_id, None)
            if engine is not None:
                self._router.release(engine)


def add_stats(stats: Iterable[EngineStats]) -> EngineStats:
    """Sums, field by field."""
    parts = list(stats)
    fields = EngineStats.__struct_fields__
    return EngineStats(**{field: sum(getattr(part, field) for part in parts) for field in fields})
