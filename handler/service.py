"""What the endpoints share: settings, engine, admission, metrics, and the wait for the boot. Event loop only."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar, TypeVarTuple

import msgspec

from handler.admission import Admission, Limits
from handler.boot import BootTimeline
from handler.demand import Expectations
from handler.engine.listeners import OnBoot, Post
from handler.engine.loaded import LoadedModel
from handler.engine.snapshot import Snapshot
from handler.engine.status import DeviceStatus, EngineState, EngineStats
from handler.errors import EngineError, PilotlightError, UnknownModelError
from handler.fingerprint import system_fingerprint
from handler.generation import SubmitsSequences
from handler.metrics import Metrics
from handler.params import ParamsFactory
from handler.settings import Settings

logger = logging.getLogger(__name__)

_NUM_THREADS = 4
"""That decode and tokenize large requests and compile grammars, of which one that takes seconds must not stop all."""

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class ServesModel(SubmitsSequences, Protocol):
    """What the function needs of an engine, or of a pool of them."""

    @property
    def snapshot(self) -> Snapshot:
        """What is served, known before it is loaded."""

    @property
    def model(self) -> LoadedModel | None:
        """The loaded model, None until the boot has ended well."""

    @property
    def state(self) -> EngineState:
        """Where it is in its life; ready while any device is."""

    @property
    def stats(self) -> EngineStats:
        """Counts of all devices together."""

    @property
    def devices(self) -> list[DeviceStatus]:
        """The state of each device, none before they are known."""

    def start(self, post: Post, on_boot: OnBoot) -> None:
        """Begin booting and return at once; `on_boot` is called once through `post`, with None if all went well."""

    def stop(self, timeout_s: float) -> bool:
        """End all threads; False if one did not end in time."""

    @property
    def is_alive(self) -> bool:
        """Whether it boots, or does its work on every device that once was ready."""

    def watch(self, elapsed_s: float, timeout_s: float) -> None:
        """Give up a device of which nothing has been heard for `timeout_s` of the time between calls."""


class Served(msgspec.Struct, frozen=True):
    """A loaded model, and what follows from it for all requests.

    Attributes:
        model: itself.
        factory: makes sampling parameters under this function's defaults.
        fingerprint: the `system_fingerprint` of all answers.
    """

    model: LoadedModel
    factory: ParamsFactory
    fingerprint: str


class Service:
    """One function in one process.

    Attributes:
        boot_error: why the model could not be loaded.
        served: what requests need of the model, from when it is loaded.
        is_lost: whether no device is left of those that served.
        loop: the event loop that it runs on, known from `start` on. To ask for the running one takes a system call in
            Python before 3.12.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, settings: Settings, engine: ServesModel, timeline: BootTimeline, metrics: Metrics) -> None:
        self.settings = settings
        self.engine = engine
        self.timeline = timeline
        self.metrics = metrics
        self.admission = Admission(
            self._places,
            self._running,
            Limits(settings.max_queued_requests, settings.max_queued_tokens, settings.queue_timeout),
            Expectations(settings.default_max_tokens),
        )
        self.boot_error: PilotlightError | None = None
        self.served: Served | None = None
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "plan")
        self.is_lost = False
        self._booted = asyncio.Event()
        self._names = (engine.snapshot.name, settings.model_name)

    def start(self, on_boot: OnBoot) -> None:
        """Begin booting and return at once; `on_boot` is called once, when the boot has ended, well or not."""

        def note(error: PilotlightError | None) -> None:
            self._on_boot(error)
            on_boot(error)

        self.loop = asyncio.get_running_loop()
        self.engine.start(self.loop.call_soon_threadsafe, note)

    async def in_thread(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Run what takes long beside the loop. Who is cancelled meanwhile waits no longer; the thread goes on.

        The threads are few: each that computes in Python keeps the loop waiting for the interpreter for a while.
        """
        return await self.loop.run_in_executor(self._threads, functools.partial(function, *arguments))

    async def decode_large(self, decode: Callable[[bytes], T], body: bytes) -> T:
        """What `decode` makes of a body that would hold the loop too long: in a thread, and not of too many at once.

        Raises:
            StoppingError, OverloadedError, StartingError: as `Admission.beside`.
        """
        with self.admission.beside():
            return await self.in_thread(decode, body)

    @property
    def is_ready(self) -> bool:
        """Whether a token could be served to a new request now."""
        return self.engine.state is EngineState.READY and self.admission.is_ready and not self.admission.is_stopping

    def _places(self) -> int:
        """Sequences that can run at once; before the boot as many as on one device."""
        ready = sum(device.state is EngineState.READY for device in self.engine.devices)
        return self.settings.max_batch_size * max(1, ready)

    def _running(self) -> int:
        """Sequences that do run at once when others wait: where memory is short, fewer than there are places."""
        stats = self.engine.stats
        return stats.num_running if stats.num_waiting else max(stats.num_running, self._places())

    def _on_boot(self, error: PilotlightError | None) -> None:
        self.boot_error = error
        self.admission.is_ready = error is None
        if error is not None:
            logger.error("the model could not be loaded: %s", error)
        elif self.engine.model is not None:
            self.served = self._serve(self.engine.model)
        self._booted.set()

    def lose_engine(self) -> None:
        """Nothing will be generated here any more: new requests are refused as those of an instance that stops."""
        self.is_lost = self.admission.is_stopping = True
        logger.error("the engine is lost: %s", self.loss)

    @property
    def loss(self) -> str:
        """What became of each device."""
        return "; ".join(f"{each.device}: {each.error}" for each in self.engine.devices if each.error)

    async def booted(self) -> None:
        """Return when the boot has ended, well or not."""
        await self._booted.wait()

    async def when_served(self) -> Served:
        """What is served, once it is loaded.

        Raises:
            EngineError: the boot failed.
        """
        await self.booted()
        if self.served is None:
            raise EngineError("The model could not be loaded; the server's log says why")
        return self.served

    def _serve(self, model: LoadedModel) -> Served:
        factory = ParamsFactory(
            model.info,
            model.defaults,
            model.tokenizer,
            default_max_tokens=self.settings.default_max_tokens,
            default_temperature=self.settings.default_temperature,
        )
        return Served(model, factory, system_fingerprint(self.engine.snapshot, model.info))

    def check_model_name(self, name: str) -> None:
        """Accept the served model's name, and the setting that chose it.

        Raises:
            UnknownModelError: any other name.
        """
        if name not in self._names:
            raise UnknownModelError(f"The model {name!r} is not served here; {self._names[0]!r} is", "model")
