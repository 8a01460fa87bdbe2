from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import msgspec
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from handler.boot import BootTimeline
from handler.engine.devices import Placement
from handler.engine.events import FinishReason, OnEvent, TokenEvent
from handler.engine.listeners import Handle
from handler.engine.options import EngineOptions
from handler.engine.pool import EnginePool, add_stats
from handler.engine.router import PREFIX_TOKENS
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.engine.status import DeviceStatus, EngineState, EngineStats
from handler.engine.text import ModelText
from handler.errors import ConfigurationError, EngineError, EngineLostError, PilotlightError
from tests.engine.running import generate, greedy
from tests.tiny_models import make_model

WAIT_S = 60.0
OPTIONS = EngineOptions(device="cpu", dtype="float32", max_batch_size=4, max_model_len=256)
TWO_CPUS = [Placement("cpu:0", 1), Placement("cpu:1", 1)]  # torch takes any index for the one CPU
NO_CPU = Placement("meta", 1)  # a device of torch's that no engine can boot on
TinySnapshot = Callable[[str], Snapshot]


class Consumer:
    """A pool of real engines, and the thread that wants its events: this one."""

    def __init__(self, snapshot: Snapshot, placements: list[Placement]) -> None:
        self.timeline = BootTimeline()
        self.pool = EnginePool(snapshot, OPTIONS, self.timeline, lambda _: placements)
        self.posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.boot: list[PilotlightError | None] = []
        self.events: dict[int, list[TokenEvent]] = {}

    def start(self) -> Consumer:
        self.pool.start(self.posted.put, self.boot.append)
        self.run_until(lambda: bool(self.boot))
        self.run_until(lambda: all(device.state is not EngineState.BOOTING for device in self.pool.devices))
        return self

    def submit(self, prompt: list[int], params: SamplingParams) -> Handle:
        events: list[TokenEvent] = []
        handle = self.pool.submit(prompt, params, events.append)
        assert handle.sequence_id not in self.events
        self.events[handle.sequence_id] = events
        return handle

    def run_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            self.posted.get(timeout=WAIT_S)()

    def wait(self, handle: Handle) -> list[TokenEvent]:
        """All events of a sequence, once it has ended."""
        events = self.events[handle.sequence_id]
        self.run_until(lambda: bool(events) and events[-1].finish_reason is not None)
        return events

    def tokens(self, handle: Handle) -> list[int]:
        return [token for event in self.wait(handle) for token in event.token_ids]

    def break_engine(self, index: int) -> None:
        """End its thread by an error."""
        self.pool._engines[index]._inbox.put(lambda core: core.no_such_attribute)


@pytest.fixture
def consumer(tiny_snapshot: TinySnapshot) -> Iterator[Consumer]:
    consumer = Consumer(tiny_snapshot("llama"), TWO_CPUS).start()
    yield consumer
    assert consumer.pool.stop(WAIT_S)


def states(pool: EnginePool) -> dict[str, EngineState]:
    return {device.device: device.state for device in pool.devices}


def test_a_pool_boots_every_device_and_says_so_once(consumer: Consumer) -> None:
    pool = consumer.pool
    assert consumer.boot == [None]
    assert states(pool) == {"cpu:0": EngineState.READY, "cpu:1": EngineState.READY}
    assert pool.state is EngineState.READY
    assert pool.is_alive
    assert pool.model is not None
    assert pool.model.info.name == pool.snapshot.name == "llama"
    assert pool.stats.kv_blocks_total == 2 * 4 * 8


def test_each_device_has_its_phases_after_those_of_the_process(consumer: Consumer) -> None:
    phases = [(phase.device, phase.name) for phase in consumer.timeline.phases]
    assert phases[:3] == [(None, "interpreter"), (None, "tokenizer"), (None, "import_torch")]
    for device in ("cpu:0", "cpu:1"):
        names = [name for of, name in phases if of == device]
        assert names == ["weights", "kv_cache", "warm_up"]
    assert len(phases) == 9
    assert consumer.timeline.ready_s is not None


def test_tokens_are_those_of_one_engine_wherever_they_are_computed(consumer: Consumer) -> None:
    model = make_model("llama")
    prompts = [[number, 5, number] for number in range(8)] + [[7] * 130 + [number] for number in range(4)]
    handles = [consumer.submit(prompt, greedy(12)) for prompt in prompts]
    for prompt, handle in zip(prompts, handles, strict=True):
        assert consumer.tokens(handle) == generate(model, prompt, 12)
    assert consumer.pool._router.loads == (0, 0)
    assert all(device.stats.prefix_query_tokens for device in consumer.pool.devices)  # both took part


def test_a_prompt_comes_back_to_where_it_was_computed(consumer: Consumer) -> None:
    prompts = [[number] * (PREFIX_TOKENS + 1) for number in (1, 2, 3)]
    for cached_tokens in (0, PREFIX_TOKENS, PREFIX_TOKENS):
        for prompt in prompts:
            assert consumer.wait(consumer.submit(prompt, greedy(2)))[-1].cached_tokens == cached_tokens


def test_each_engine_computes_with_its_own_share_of_the_threads(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama"), [Placement("cpu:0", 2), Placement("cpu:1", 1)]).start()
    seen: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for index, engine in enumerate(consumer.pool._engines):
        engine._inbox.put(lambda _, index=index: seen.put((index, torch.get_num_threads())))
    assert {seen.get(timeout=WAIT_S) for _ in range(2)} == {(0, 2), (1, 1)}
    assert consumer.pool.stop(WAIT_S)


def test_one_device_is_a_pool_too(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama"), [Placement("cpu")]).start()
    assert consumer.tokens(consumer.submit([1, 2, 3], greedy(5))) == generate(make_model("llama"), [1, 2, 3], 5)
    assert {phase.device for phase in consumer.timeline.phases} == {None}
    assert consumer.pool.stop(WAIT_S)
    assert consumer.pool.state is EngineState.STOPPED
    assert not consumer.pool.is_alive
    with pytest.raises(EngineError, match="no engine is ready"):
        consumer.submit([1], greedy(1))


def test_a_device_that_cannot_boot_is_left_out(tiny_snapshot: TinySnapshot, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    consumer = Consumer(tiny_snapshot("llama"), [NO_CPU, TWO_CPUS[1]]).start()
    consumer.run_until(lambda: "meta could not boot" in caplog.text)
    assert consumer.boot == [None]
    assert states(consumer.pool) == {"meta": EngineState.FAILED, "cpu:1": EngineState.READY}
    assert "neither cpu nor cuda" in str(consumer.pool.devices[0].error)
    assert "device cpu:1 is ready" in caplog.text
    assert consumer.pool.state is EngineState.READY
    assert consumer.pool.is_alive  # a new process would find the same device
    handles = [consumer.submit([number], greedy(3)) for number in range(3)]
    assert [len(consumer.tokens(handle)) for handle in handles] == [3, 3, 3]
    assert consumer.pool.stop(WAIT_S)


def test_when_no_device_boots_the_boot_has_failed(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama"), [NO_CPU, NO_CPU]).start()
    [error] = consumer.boot
    assert isinstance(error, ConfigurationError)
    assert consumer.pool.state is EngineState.FAILED
    assert consumer.pool.model is None
    assert not consumer.pool.is_alive
    with pytest.raises(EngineError, match="no engine is ready"):
        consumer.submit([1], greedy(1))
    assert consumer.pool.stop(WAIT_S)


@pytest.mark.parametrize("error", [ConfigurationError("MODEL_DEVICE", "there is none"), ImportError("no torch")])
def test_devices_that_cannot_be_found_fail_the_boot(
    error: Exception, tiny_snapshot: TinySnapshot, caplog: pytest.LogCaptureFixture
) -> None:
    def place(_: EngineOptions) -> list[Placement]:
        raise error

    pool = EnginePool(tiny_snapshot("llama"), OPTIONS, BootTimeline(), place)
    posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    boot: list[PilotlightError | None] = []
    pool.start(posted.put, boot.append)
    posted.get(timeout=WAIT_S)()
    [told] = boot
    assert str(error) in str(told)
    assert isinstance(told, ConfigurationError if isinstance(error, ConfigurationError) else EngineError)
    assert ("could not be placed" in caplog.text) == isinstance(error, ImportError)
    assert pool.state is EngineState.FAILED
    assert not pool.is_alive
    assert pool.stop(WAIT_S)


def test_an_engine_that_fails_takes_its_own_sequences_only(consumer: Consumer) -> None:
    pool = consumer.pool
    handles = [consumer.submit([number], greedy(250)) for number in (1, 2)]
    consumer.run_until(lambda: all(consumer.events[handle.sequence_id] for handle in handles))
    assert pool._router.loads == (1, 1)
    consumer.break_engine(0)
    last = consumer.wait(handles[0])[-1]
    assert last.finish_reason is FinishReason.ERROR
    assert len(consumer.tokens(handles[1])) == 250
    assert states(pool) == {"cpu:0": EngineState.FAILED, "cpu:1": EngineState.READY}
    assert "AttributeError" in str(pool.devices[0].error)
    assert pool.state is EngineState.READY
    assert not pool.is_alive  # only a new process mends it
    assert pool.stats.num_running == 0
    later = [consumer.submit([number], greedy(3)) for number in range(4)]
    assert [len(consumer.tokens(handle)) for handle in later] == [3] * 4
    consumer.break_engine(1)
    consumer.run_until(lambda: pool.state is EngineState.FAILED)
    with pytest.raises(EngineError, match="no engine is ready"):
        consumer.submit([1], greedy(1))


def test_stop_ends_all_threads_in_the_middle_of_the_work(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama"), TWO_CPUS).start()
    handles = [consumer.submit([number], greedy(250)) for number in (1, 2)]
    consumer.run_until(lambda: all(consumer.events[handle.sequence_id] for handle in handles))
    assert consumer.pool.stop(WAIT_S)
    assert consumer.pool.state is EngineState.STOPPED
    assert not any(thread.name in {"engine", "engine-pool"} for thread in threading.enumerate())
    handles[0].cancel()
    assert consumer.pool.stop(0.0)


def test_stop_before_the_start_is_no_error(tiny_snapshot: TinySnapshot) -> None:
    assert EnginePool(tiny_snapshot("llama"), OPTIONS, BootTimeline()).stop(0.0)


def test_stop_while_devices_are_looked_for_starts_none(tiny_snapshot: TinySnapshot) -> None:
    looking, go_on = threading.Event(), threading.Event()

    def place(_: EngineOptions) -> list[Placement]:
        looking.set()
        go_on.wait(WAIT_S)
        return TWO_CPUS

    timeline = BootTimeline()
    pool = EnginePool(tiny_snapshot("llama"), OPTIONS, timeline, place)
    assert (pool.state, pool.is_alive, pool.devices, pool.model) == (EngineState.BOOTING, True, [], None)
    pool.start(lambda function: function(), lambda _: None)
    assert looking.wait(WAIT_S)
    assert timeline.phases[-1].name == "import_torch"  # which finding the devices needs
    assert not pool.stop(0.0)
    go_on.set()
    assert pool.stop(WAIT_S)
    assert (pool.devices, pool.state) == ([], EngineState.STOPPED)


def test_sums_have_every_field() -> None:
    fields = EngineStats.__struct_fields__
    parts = [EngineStats(**{field: base + i for i, field in enumerate(fields)}) for base in (100, 1000)]
    assert msgspec.structs.astuple(add_stats(parts)) == tuple(1100 + 2 * i for i in range(len(fields)))
    assert add_stats([]) == EngineStats()


class FakeEngine:
    """An engine whose life the test decides."""

    def __init__(
        self, _: Snapshot, options: EngineOptions, timeline: BootTimeline, num_threads: int | None, text: ModelText
    ) -> None:
        self.text = text
        self.device = options.device
        self.state = EngineState.BOOTING
        self.stats = EngineStats()
        self.model: Any = None
        self.sequences: dict[int, OnEvent] = {}
        self.keys = itertools.count()
        self.stops: list[float] = []
        self.ends_in_time = True

    @property
    def devices(self) -> list[DeviceStatus]:
        return [DeviceStatus(device=self.device, state=self.state, stats=self.stats)]

    def start(self, post: Callable[[Callable[[], None]], object], on_boot: Callable[[Any], None]) -> None:
        self._tell = lambda error: post(partial(on_boot, error))

    def boot(self, error: PilotlightError | None = None) -> None:
        self.state = EngineState.READY if error is None else EngineState.FAILED
        self.model = None if error is not None else object()
        self._tell(error)

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        if self.state is not EngineState.READY:
            raise EngineLostError("the engine has ended")
        key = next(self.keys)
        self.sequences[key] = on_event
        return Handle(key, lambda key: self.sequences.pop(key, None))

    def finish(self, key: int) -> None:
        self.sequences.pop(key)(TokenEvent(finish_reason=FinishReason.STOP))

    def fail(self) -> None:
        self.state = EngineState.FAILED
        while self.sequences:
            self.sequences.popitem()[1](TokenEvent(finish_reason=FinishReason.ERROR))

    @property
    def is_alive(self) -> bool:
        return self.state in {EngineState.BOOTING, EngineState.READY}

    def stop(self, timeout_s: float) -> bool:
        self.stops.append(timeout_s)
        return self.ends_in_time


def fake_pool(
    tiny_snapshot: TinySnapshot, num_engines: int, max_batch_size: int = 3
) -> tuple[EnginePool, list[FakeEngine], list[Any]]:
    """A started pool, its engines, and what it says of its boot."""
    pool = EnginePool(
        tiny_snapshot("llama"),
        EngineOptions(max_batch_size=max_batch_size),
        BootTimeline(),
        lambda _: [Placement(f"cuda:{index}") for index in range(num_engines)],
        FakeEngine,  # type: ignore[arg-type]
    )
    boot: list[Any] = []
    pool.start(lambda function: function(), boot.append)
    assert pool._thread is not None
    pool._thread.join(WAIT_S)
    engines: Any = pool._engines
    return pool, engines, boot


def test_the_first_device_that_is_ready_serves_at_once(tiny_snapshot: TinySnapshot) -> None:
    pool, engines, boot = fake_pool(tiny_snapshot, 3)
    assert (pool.state, boot) == (EngineState.BOOTING, [])
    assert all(engine.text is engines[0].text for engine in engines)
    with pytest.raises(EngineError, match="no engine is ready"):
        pool.submit([1], greedy(1), lambda _: None)
    engines[1].boot()
    assert (pool.state, boot) == (EngineState.READY, [None])
    for _ in range(5):
        pool.submit([1], greedy(1), lambda _: None)
    assert len(engines[1].sequences) == 5
    engines[0].boot()
    engines[2].boot(EngineError("out of memory"))
    assert boot == [None]
    pool.submit([1], greedy(1), lambda _: None)
    assert len(engines[0].sequences) == 1


def test_a_boot_has_failed_with_its_last_device(tiny_snapshot: TinySnapshot) -> None:
    pool, engines, boot = fake_pool(tiny_snapshot, 2)
    engines[1].boot(EngineError("first"))
    assert (pool.state, boot, pool.is_alive) == (EngineState.BOOTING, [], True)
    engines[0].boot(EngineError("last"))
    assert (pool.state, [str(error) for error in boot], pool.is_alive) == (EngineState.FAILED, ["last"], False)


def test_one_engine_that_is_gone_is_enough_to_be_unhealthy(tiny_snapshot: TinySnapshot) -> None:
    pool, engines, _ = fake_pool(tiny_snapshot, 2)
    for engine in engines:
        engine.boot()
    assert pool.is_alive
    engines[1].fail()
    assert not pool.is_alive


def test_an_engine_that_fails_between_choice_and_submission_keeps_no_load(
    tiny_snapshot: TinySnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, engines, _ = fake_pool(tiny_snapshot, 1)
    engines[0].boot()

    def refuse(*_: object) -> Handle:
        raise EngineLostError("the engine has ended")

    monkeypatch.setattr(engines[0], "submit", refuse)
    with pytest.raises(EngineError, match="the engine has ended"):
        pool.submit([1], greedy(1), lambda _: None)
    assert pool._router.loads == (0,)


def test_all_engines_stop_within_one_deadline(tiny_snapshot: TinySnapshot) -> None:
    pool, engines, _ = fake_pool(tiny_snapshot, 3)
    assert pool.stop(5.0)
    for engine in engines:
        told, waited = engine.stops
        assert told == 0.0  # all are told before any is waited for
        assert 0.0 <= waited <= 5.0
    engines[1].ends_in_time = False
    assert not pool.stop(0.0)


class Serving(RuleBasedStateMachine):
    """Sequences come and go, engines boot and break: what the pool counts is what is there."""

    tiny_snapshot: ClassVar[TinySnapshot]

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.engines, self.boot = fake_pool(self.tiny_snapshot, 3)
        self.handles: list[Handle] = []
        self.ends: dict[int, list[TokenEvent]] = {}

    @property
    def ready(self) -> list[FakeEngine]:
        return [engine for engine in self.engines if engine.state is EngineState.READY]

    @precondition(lambda self: any(engine.state is EngineState.BOOTING for engine in self.engines))
    @rule(succeeds=st.sampled_from([True, True, False]))
    def boot_one(self, succeeds: bool) -> None:
        engine = next(engine for engine in self.engines if engine.state is EngineState.BOOTING)
        engine.boot(None if succeeds else EngineError("broken"))

    @rule(prompt=st.integers(0, 3), length=st.sampled_from([1, PREFIX_TOKENS]))
    def submit(self, prompt: int, length: int) -> None:
        before = [len(engine.sequences) for engine in self.engines]
        events: list[TokenEvent] = []
        if not self.ready:
            with pytest.raises(EngineError, match="no engine is ready"):
                self.pool.submit([prompt] * length, greedy(1), events.append)
            return
        handle = self.pool.submit([prompt] * length, greedy(1), events.append)
        assert handle.sequence_id not in self.ends
        self.ends[handle.sequence_id] = events
        self.handles.append(handle)
        (grown,) = [i for i, engine in enumerate(self.engines) if len(engine.sequences) > before[i]]
        assert self.engines[grown] in self.ready

    @precondition(lambda self: any(engine.sequences for engine in self.engines))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        engine = data.draw(st.sampled_from([engine for engine in self.engines if engine.sequences]))
        engine.finish(data.draw(st.sampled_from(sorted(engine.sequences))))

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """At any time, more than once, after its end."""
        data.draw(st.sampled_from(self.handles)).cancel()

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def break_one(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.ready)).fail()
        assert not self.pool.is_alive

    @invariant()
    def loads_are_the_sequences_that_run(self) -> None:
        assert self.pool._router.loads == tuple(len(engine.sequences) for engine in self.engines)
        assert len(self.pool._engine_of) == sum(self.pool._router.loads)

    @invariant()
    def every_sequence_is_told_its_end_once(self) -> None:
        assert all(len(events) <= 1 for events in self.ends.values())

    @invariant()
    def the_boot_is_reported_once(self) -> None:
        is_over = self.ready or all(engine.state is EngineState.FAILED for engine in self.engines)
        assert len(self.boot) <= 1
        assert self.boot or not is_over


@pytest.mark.usefixtures("_snapshot_of_serving")
class TestServing(Serving.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=60, stateful_step_count=40)


@pytest.fixture(scope="module")
def _snapshot_of_serving(tiny_snapshot: TinySnapshot) -> None:
    Serving.tiny_snapshot = staticmethod(tiny_snapshot)
