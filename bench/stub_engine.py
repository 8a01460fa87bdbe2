"""An engine without a model: the same words in the same order for everybody, for the cost of everything but the model.

Like the real one it works in a thread of its own, in steps: each running sequence gets one token a step, and all of a
step's events cross to the consumer in one `post`. Of the sampling parameters it knows `max_tokens` and `priority`
alone. It has no memory that could run out, and no batch limit unless it is given one.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from functools import partial

import msgspec

from handler.engine.events import FinishReason, OnEvent, TokenEvent
from handler.engine.listeners import Handle, OnBoot, Post
from handler.engine.loaded import LoadedModel
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.engine.status import DeviceStatus, EngineState, EngineStats
from handler.errors import EngineError

WORDS = (" one", " two", " three", " four", " five", " six", " seven", " eight")
"""What every sequence says, over and over."""

_Deliveries = list[tuple[OnEvent, TokenEvent]]


class _Sequence(msgspec.Struct):
    """A sequence that has not ended."""

    on_event: OnEvent
    max_tokens: int
    rank: tuple[int, int]
    num_tokens: int = 0


class StubEngine:
    """Serves `model` with made-up tokens. The methods are those of `handler.engine.engine.Engine`.

    Args:
        snapshot: what is said to be served.
        model: what tokenizes and describes; there from the start.
        step_s: time from one step to the next. With 0 a step begins as soon as the events of the one before have been
            delivered: as fast as the consumer can take them, and never ahead of it.
        max_batch_size: sequences in one step; others wait for their turn. None: all there are.
    """

    def __init__(
        self, snapshot: Snapshot, model: LoadedModel, step_s: float = 0.0, max_batch_size: int | None = None
    ) -> None:
        self.snapshot = snapshot
        self.model = model
        self.state = EngineState.BOOTING
        self.stats = EngineStats()
        self._step_s = step_s
        self._max_batch_size = max_batch_size
        self._inbox: queue.SimpleQueue[tuple[int, _Sequence | None] | None] = queue.SimpleQueue()
        self._delivered = threading.Semaphore(0)
        self._ids = itertools.count()
        self._thread: threading.Thread | None = None
        self._middle = [TokenEvent(text=word, token_ids=(index,)) for index, word in enumerate(WORDS)]
        self._last = [msgspec.structs.replace(event, finish_reason=FinishReason.LENGTH) for event in self._middle]

    @property
    def devices(self) -> list[DeviceStatus]:
        """The one that it pretends to be."""
        return [DeviceStatus(device=self.model.info.device, state=self.state, stats=self.stats)]

    def start(self, post: Post, on_boot: OnBoot) -> None:
        """Be ready at once."""
        self.state = EngineState.READY
        self._thread = threading.Thread(target=self._run, args=(post,), name="engine", daemon=True)
        self._thread.start()
        post(partial(on_boot, None))

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        """Queue a sequence of `params.max_tokens` tokens."""
        del prompt_tokens
        if self.state is not EngineState.READY:
            raise EngineError("the engine has ended")
        sequence_id = next(self._ids)
        self._inbox.put((sequence_id, _Sequence(on_event, params.max_tokens, (params.priority, sequence_id))))
        return Handle(sequence_id, self._cancel)

    def stop(self, timeout_s: float) -> bool:
        """End the thread; what still runs is dropped."""
        self.state = EngineState.STOPPED
        self._inbox.put(None)
        self._delivered.release()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Always: there is nothing that could hang."""
        return True

    def watch(self, elapsed_s: float, timeout_s: float) -> None:
        """Nothing to watch."""

    def _cancel(self, sequence_id: int) -> None:
        self._inbox.put((sequence_id, None))

    def _run(self, post: Post) -> None:
        waiting: dict[int, _Sequence] = {}
        running: dict[int, _Sequence] = {}
        next_s = time.monotonic()
        while self._read_inbox(waiting, running):
            self._fill(waiting, running)
            deliveries = self._step(running)
            self.stats = EngineStats(num_running=len(running), num_waiting=len(waiting))
            if not deliveries:
                continue
            post(partial(self._deliver, deliveries))
            if self._step_s:
                next_s = max(next_s + self._step_s, time.monotonic())
                time.sleep(max(0.0, next_s - time.monotonic()))
            else:
                self._delivered.acquire()

    def _fill(self, waiting: dict[int, _Sequence], running: dict[int, _Sequence]) -> None:
        """Let those begin who may, the first in rank first."""
        free = len(waiting) if self._max_batch_size is None else self._max_batch_size - len(running)
        if free and waiting:
            for sequence_id in sorted(waiting, key=lambda each: waiting[each].rank)[:free]:
                running[sequence_id] = waiting.pop(sequence_id)

    def _read_inbox(self, waiting: dict[int, _Sequence], running: dict[int, _Sequence]) -> bool:
        """Take what came in, waiting while there is nothing to do. False: stop."""
        is_idle = not running and not waiting
        while is_idle or not self._inbox.empty():
            is_idle = False
            message = self._inbox.get()
            if message is None:
                return False
            sequence_id, sequence = message
            if sequence is None:
                running.pop(sequence_id, None)
                waiting.pop(sequence_id, None)
            else:
                waiting[sequence_id] = sequence
        return True

    def _step(self, running: dict[int, _Sequence]) -> _Deliveries:
        """One token for each; sequences that are as far as each other share one event."""
        deliveries: _Deliveries = []
        ended: list[int] = []
        first: dict[bool, TokenEvent] = {}  # by whether it is the last one, too
        for sequence_id, sequence in running.items():
            number = sequence.num_tokens
            sequence.num_tokens += 1
            is_last = sequence.num_tokens == sequence.max_tokens
            event = (self._last if is_last else self._middle)[number % len(WORDS)]
            if number == 0:
                if is_last not in first:
                    first[is_last] = msgspec.structs.replace(event, first_scheduled_s=time.monotonic())
                event = first[is_last]
            if is_last:
                ended.append(sequence_id)
            deliveries.append((sequence.on_event, event))
        for sequence_id in ended:
            del running[sequence_id]
        return deliveries

    def _deliver(self, deliveries: _Deliveries) -> None:
        for on_event, event in deliveries:
            on_event(event)
        if not self._step_s:
            self._delivered.release()
