from __future__ import annotations

import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handler.boot import BootTimeline
from handler.engine.core import EngineCore
from handler.engine.engine import Engine
from handler.engine.events import FinishReason, TokenEvent
from handler.engine.listeners import Handle
from handler.engine.options import EngineOptions
from handler.engine.runner import FinishedStep
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.engine.status import EngineState
from handler.engine.step import Batch, PendingStep
from handler.errors import ConfigurationError, CorruptSnapshotError, EngineError, EngineLostError, PilotlightError
from tests.engine.deferred import DeferredStep, defer
from tests.engine.running import generate, greedy
from tests.tiny_models import make_model

WAIT_S = 60.0
OPTIONS = EngineOptions(device="cpu", dtype="float32", max_batch_size=4, max_model_len=256)
TinySnapshot = Callable[[str], Snapshot]


class Consumer:
    """An engine and the thread that wants its events: this one."""

    def __init__(self, snapshot: Snapshot, options: EngineOptions = OPTIONS) -> None:
        self.timeline = BootTimeline()
        self.engine = Engine(snapshot, options, self.timeline)
        self.posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.boot: list[PilotlightError | None] = []
        self.events: dict[int, list[TokenEvent]] = {}
        self.events_per_post: list[int] = []

    def start(self) -> Consumer:
        self.engine.start(self.posted.put, self.boot.append)
        self.run_until(lambda: bool(self.boot))
        return self

    def submit(self, prompt: list[int], params: SamplingParams) -> Handle:
        events: list[TokenEvent] = []
        handle = self.engine.submit(prompt, params, events.append)
        self.events[handle.sequence_id] = events
        return handle

    def run_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            before = self.num_events
            self.posted.get(timeout=WAIT_S)()
            self.events_per_post.append(self.num_events - before)

    def wait(self, handle: Handle) -> list[TokenEvent]:
        """All events of a sequence, once it has ended."""
        events = self.events[handle.sequence_id]
        self.run_until(lambda: bool(events) and events[-1].finish_reason is not None)
        return events

    def tokens(self, handle: Handle) -> list[int]:
        return [token for event in self.wait(handle) for token in event.token_ids]

    @property
    def num_events(self) -> int:
        return sum(map(len, self.events.values()))


@pytest.fixture
def consumer(tiny_snapshot: TinySnapshot) -> Iterator[Consumer]:
    consumer = Consumer(tiny_snapshot("llama")).start()
    yield consumer
    assert consumer.engine.stop(WAIT_S)


def damaged(snapshot: Snapshot, tmp_path: Path, damage: Callable[[Path], object]) -> Snapshot:
    directory = tmp_path / "damaged"
    shutil.copytree(snapshot.directory, directory)
    damage(directory)
    return msgspec.structs.replace(snapshot, directory=directory)


def test_a_boot_ends_ready_and_is_told_once(consumer: Consumer) -> None:
    engine = consumer.engine
    assert consumer.boot == [None]
    assert engine.state is EngineState.READY
    assert engine.model is not None
    assert engine.model.info.name == engine.snapshot.name == "llama"
    assert engine.stats.kv_blocks_total == 4 * 8
    assert [phase.name for phase in consumer.timeline.phases] == [
        "interpreter",
        "import_torch",
        "tokenizer",
        "weights",
        "kv_cache",
        "warm_up",
    ]
    assert consumer.timeline.ready_s is not None


def test_tokens_come_as_events_the_last_with_a_reason(consumer: Consumer) -> None:
    handle = consumer.submit([1, 2, 3], greedy(10))
    events = consumer.wait(handle)
    assert consumer.tokens(handle) == generate(make_model("llama"), [1, 2, 3], 10)
    assert [event.finish_reason for event in events] == [None] * 9 + [FinishReason.LENGTH]
    assert [len(event.token_ids) for event in events] == [1] * 10
    assert consumer.posted.empty()


def test_a_prompt_of_several_steps_says_that_it_has_begun(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama"), msgspec.structs.replace(OPTIONS, prefill_chunk_tokens=128)).start()
    begun, *events = consumer.wait(consumer.submit([1, 2] * 100, greedy(2)))
    assert consumer.engine.stop(WAIT_S)
    assert (begun.token_ids, begun.finish_reason) == ((), None)
    assert begun.first_scheduled_s == events[0].first_scheduled_s is not None
    assert [len(event.token_ids) for event in events] == [1, 1]


def test_all_events_of_a_step_come_in_one_post(consumer: Consumer) -> None:
    handles = [consumer.submit([number], greedy(50)) for number in range(3)]
    for handle in handles:
        assert len(consumer.tokens(handle)) == 50
    assert max(consumer.events_per_post) == 3
    assert len(consumer.events_per_post) < 100


def test_a_listener_that_raises_costs_the_others_no_event(consumer: Consumer, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: TokenEvent) -> None:
        raise RuntimeError("a defect of one listener")

    consumer.engine.submit([9], greedy(5), fail)
    handle = consumer.submit([1, 2, 3], greedy(10))
    assert consumer.tokens(handle) == generate(make_model("llama"), [1, 2, 3], 10)
    assert "a defect of one listener" in caplog.text


def test_sequences_from_many_threads_do_not_mix(consumer: Consumer) -> None:
    model = make_model("llama")
    prompts = [[number, 5, number] for number in range(6)]
    handles: list[tuple[list[int], Handle]] = []
    threads = [
        threading.Thread(target=lambda prompt=prompt: handles.append((prompt, consumer.submit(prompt, greedy(8)))))
        for prompt in prompts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for prompt, handle in handles:
        assert consumer.tokens(handle) == generate(model, prompt, 8)


def test_a_cancelled_sequence_is_gone_before_the_next_step(consumer: Consumer) -> None:
    cancelled = consumer.submit([1] * 40, greedy(200))
    consumer.run_until(lambda: len(consumer.events[cancelled.sequence_id]) > 2)
    assert consumer.engine.stats.kv_blocks_used > 0
    cancelled.cancel()
    marker = consumer.submit([2], greedy(1))  # the inbox is read in order, so this one starts after the cancellation
    consumer.wait(marker)
    stats = consumer.engine.stats
    assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)
    events = consumer.events[cancelled.sequence_id]
    assert all(event.finish_reason is None for event in events)
    assert len(events) < 200
    count = len(events)
    consumer.wait(consumer.submit([3], greedy(5)))
    assert len(events) == count
    cancelled.cancel()  # again, and after an end, is no error
    marker.cancel()
    assert len(consumer.tokens(consumer.submit([2], greedy(3)))) == 3


def test_cancelling_before_the_first_step_leaves_nothing(consumer: Consumer) -> None:
    busy = consumer.submit([1], greedy(100))
    cancelled = [consumer.submit([2] * 30, greedy(100)) for _ in range(8)]
    for handle in cancelled:
        handle.cancel()
    assert len(consumer.tokens(busy)) == 100
    assert consumer.engine.stats.kv_blocks_used == 0
    assert not any(event.finish_reason for handle in cancelled for event in consumer.events[handle.sequence_id])


def test_a_step_that_fails_fails_who_is_to_blame_and_the_engine_goes_on(
    consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model("llama")
    guilty = consumer.submit([1] * 20, greedy(200))
    innocent = consumer.submit([1, 2], greedy(60))
    consumer.run_until(lambda: bool(consumer.events[innocent.sequence_id]))
    consumer.engine._inbox.put(lambda core: core._scheduler.running[0].tokens.append(10**6))  # no such row
    last = consumer.wait(guilty)[-1]
    assert last.finish_reason is FinishReason.ERROR
    assert isinstance(last.error, EngineError)
    assert last.token_ids == ()
    assert consumer.tokens(innocent) == generate(model, [1, 2], 60)
    assert "a step of 2 sequences failed" in caplog.text
    assert "a step of 1 sequences failed" in caplog.text
    assert consumer.engine.state is EngineState.READY
    assert consumer.tokens(consumer.submit([4, 5], greedy(6))) == generate(model, [4, 5], 6)
    assert consumer.engine.stats.kv_blocks_used == 0


def test_a_defect_of_ours_in_a_step_fails_all_and_the_engine_goes_on(
    consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(core: EngineCore) -> None:
        """Let the next plan fail, once."""
        scheduler: Any = core._scheduler
        plan = scheduler._plan

        def fail() -> Batch:
            scheduler._plan = plan
            raise AssertionError("a defect")

        scheduler._plan = fail

    handles = [consumer.submit([number, 1], greedy(200)) for number in (1, 2)]
    consumer.run_until(lambda: all(consumer.events[handle.sequence_id] for handle in handles))
    consumer.engine._inbox.put(begin)
    for handle in handles:
        assert "AssertionError" in str(consumer.wait(handle)[-1].error)
    assert "engine step failed" in caplog.text
    assert consumer.tokens(consumer.submit([4, 5], greedy(6))) == generate(make_model("llama"), [4, 5], 6)
    assert not consumer.engine._listeners


def test_a_step_that_fails_loses_nobody_who_ended_in_the_same_call(consumer: Consumer) -> None:
    handles: list[Handle] = []

    def begin(core: EngineCore) -> None:
        """Between two steps: submit two, and fail the launch that follows the last token of one in one call."""
        runner = defer(core)
        launch = runner.launch

        def launch_or_fail(batch: Batch) -> DeferredStep:
            if core.stats().num_running == 1:
                raise MemoryError("the device has no memory left")
            return launch(batch)

        runner.launch = launch_or_fail  # type: ignore[method-assign]
        handles.append(consumer.submit([1, 2, 3], greedy(6)))
        handles.append(consumer.submit([4, 5, 6], greedy(60, logprobs=1)))  # waits for its history

    consumer.engine._inbox.put(begin)
    consumer.run_until(lambda: len(handles) == 2)
    assert consumer.tokens(handles[0]) == generate(make_model("llama"), [1, 2, 3], 6)
    assert "MemoryError" in str(consumer.wait(handles[1])[-1].error)
    assert not consumer.engine._listeners


def test_a_lost_device_ends_the_engine_and_everything_in_it(
    consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(core: EngineCore) -> None:
        def fail(batch: Batch) -> FinishedStep:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        core._runner.launch = fail  # type: ignore[method-assign]

    consumer.engine._inbox.put(begin)
    handles = [consumer.submit([number], greedy(50)) for number in (1, 2)]
    for handle in handles:
        error = consumer.wait(handle)[-1].error
        assert isinstance(error, EngineLostError)
        assert str(error) == "the device is lost: RuntimeError"
    assert consumer.engine.state is EngineState.FAILED
    assert "illegal memory access" in caplog.text
    with pytest.raises(EngineLostError):
        consumer.submit([1], greedy(1))


def test_a_thread_that_hangs_is_given_up_and_says_no_more(consumer: Consumer) -> None:
    engine = consumer.engine
    stuck, go_on = threading.Event(), threading.Event()

    def begin(core: EngineCore) -> None:
        launch = core._runner.launch

        def hang(batch: Batch) -> PendingStep:
            stuck.set()
            assert go_on.wait(WAIT_S)
            return launch(batch)

        core._runner.launch = hang  # type: ignore[method-assign]

    engine._inbox.put(begin)
    running = consumer.submit([1], greedy(5))
    assert stuck.wait(WAIT_S)
    unread = consumer.submit([2], greedy(5))
    engine.watch(100.0, 1.0)  # the first look only notes where the thread is
    engine.watch(0.6, 1.0)
    assert engine.state is EngineState.READY
    engine.watch(0.6, 1.0)
    assert engine.state is EngineState.FAILED
    assert not engine.is_alive
    for handle in (running, unread):
        [event] = consumer.events[handle.sequence_id]
        assert isinstance(event.error, EngineLostError)
        assert "a step has not ended for 1 s" in str(event.error)
    assert not engine.stop(WAIT_S)  # nor is it waited for
    assert (engine.stats.num_running, engine.stats.kv_blocks_used) == (0, 0)
    go_on.set()
    assert engine._thread is not None
    engine._thread.join(WAIT_S)
    assert not engine._thread.is_alive()
    while not consumer.posted.empty():
        consumer.posted.get()()
    assert engine.state is EngineState.FAILED
    assert [len(consumer.events[handle.sequence_id]) for handle in (running, unread)] == [1, 1]
    assert (engine.stats.num_running, engine.stats.kv_blocks_used) == (0, 0)


def test_a_thread_that_waits_for_work_does_not_hang_however_short_its_steps_have_to_be(consumer: Consumer) -> None:
    engine = consumer.engine
    for _ in range(3):
        heartbeat_s = engine._pulse.beat_s
        while engine._pulse.beat_s == heartbeat_s and engine.state is EngineState.READY:
            engine.watch(0.01, 0.1)
            time.sleep(0.01)
    assert engine.state is EngineState.READY


def test_a_step_that_is_late_is_no_hang(consumer: Consumer) -> None:
    engine = consumer.engine
    handle = consumer.submit([1], greedy(50))
    while len(consumer.events[handle.sequence_id]) < 50:
        engine.watch(0.9, 1.0)
        consumer.posted.get(timeout=WAIT_S)()
        while not consumer.posted.empty():  # two looks between posts that lie there already would be 1.8 s of no beat
            consumer.posted.get()()
    assert consumer.wait(handle)[-1].finish_reason is FinishReason.LENGTH
    assert engine.state is EngineState.READY


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "do not fit a context of 256"),
        ([1] * 255, "do not fit a context of 256"),
        ([1, 10**6], "prompt: token 1000000 is outside the model's vocabulary of 259"),
    ],
)
def test_a_sequence_that_cannot_be_followed_fails_alone(prompt: list[int], message: str, consumer: Consumer) -> None:
    innocent = consumer.submit([1, 2], greedy(20))
    refused = consumer.submit(prompt, greedy(20))
    [event] = consumer.wait(refused)
    assert event.finish_reason is FinishReason.ERROR
    assert message in str(event.error)
    assert len(consumer.tokens(innocent)) == 20


def test_what_is_submitted_while_booting_is_served(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama"))
    handle = consumer.submit([1, 2, 3], greedy(3))
    cancelled = consumer.submit([1], greedy(3))
    cancelled.cancel()
    consumer.start()
    assert consumer.tokens(handle) == generate(make_model("llama"), [1, 2, 3], 3)
    assert consumer.events[cancelled.sequence_id] == []
    assert consumer.engine.stop(WAIT_S)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda directory: (directory / "config.json").unlink(), r"config\.json"),
        (lambda directory: (directory / "tokenizer.json").write_text("{"), r"tokenizer\.json"),
        (lambda directory: (directory / "generation_config.json").unlink(), r"generation_config\.json"),
        (lambda directory: (directory / "model.safetensors").write_bytes(b"\0" * 100), r"model\.safetensors"),
        (lambda directory: (directory / "model.safetensors").unlink(), "safetensors"),
    ],
)
def test_a_damaged_snapshot_is_reported(
    damage: Callable[[Path], object], message: str, tiny_snapshot: TinySnapshot, tmp_path: Path
) -> None:
    consumer = Consumer(damaged(tiny_snapshot("llama"), tmp_path, damage)).start()
    [error] = consumer.boot
    assert isinstance(error, CorruptSnapshotError)
    assert message.replace("\\", "") in str(error)
    assert consumer.engine.state is EngineState.FAILED
    assert not consumer.engine.is_alive
    assert consumer.engine.model is None
    with pytest.raises(EngineError, match="the engine has ended"):
        consumer.submit([1], greedy(1))
    assert consumer.engine.stop(WAIT_S)


def test_a_setting_that_cannot_work_is_reported_as_such(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama"), msgspec.structs.replace(OPTIONS, max_model_len=10**6)).start()
    [error] = consumer.boot
    assert isinstance(error, ConfigurationError)
    assert error.key == "MAX_MODEL_LEN"


def test_an_unforeseen_failure_of_the_boot_is_reported_too(
    tiny_snapshot: TinySnapshot, caplog: pytest.LogCaptureFixture
) -> None:
    options: Any = None
    consumer = Consumer(tiny_snapshot("llama"), options).start()
    [error] = consumer.boot
    assert isinstance(error, EngineError)
    assert "could not boot" in str(error)
    assert "engine boot failed" in caplog.text


def test_stop_ends_the_thread_in_the_middle_of_the_work(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama")).start()
    handle = consumer.submit([1], greedy(250))
    consumer.run_until(lambda: bool(consumer.events[handle.sequence_id]))
    assert consumer.engine.stop(WAIT_S)
    assert consumer.engine.state is EngineState.STOPPED
    assert not consumer.engine.is_alive
    assert not any(thread.name == "engine" for thread in threading.enumerate())
    with pytest.raises(EngineError, match="the engine has ended"):
        consumer.submit([1], greedy(1))
    handle.cancel()
    assert consumer.engine.stop(0.0)


def test_stop_before_the_start_is_no_error(tiny_snapshot: TinySnapshot) -> None:
    assert Engine(tiny_snapshot("llama"), OPTIONS, BootTimeline()).stop(0.0)


def test_the_heart_beats_while_there_is_nothing_to_do(consumer: Consumer) -> None:
    engine = consumer.engine
    before = engine._pulse.beat_s
    deadline = time.monotonic() + WAIT_S
    pause = threading.Event()
    while engine._pulse.beat_s == before:
        assert time.monotonic() < deadline
        pause.wait(0.01)
    assert engine.is_alive


def test_booting_counts_as_life(tiny_snapshot: TinySnapshot) -> None:
    assert Engine(tiny_snapshot("llama"), OPTIONS, BootTimeline()).is_alive


def test_the_end_of_the_thread_is_told_to_all_who_wait(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama")).start()
    handles = [consumer.submit([1, 2], greedy(200)) for _ in range(3)]
    consumer.run_until(lambda: all(consumer.events[handle.sequence_id] for handle in handles))
    consumer.engine._inbox.put(lambda core: core.no_such_attribute)
    for handle in handles:
        last = consumer.wait(handle)[-1]
        assert last.finish_reason is FinishReason.ERROR
        assert "AttributeError" in str(last.error)
    assert consumer.engine.state is EngineState.FAILED
    assert consumer.engine.stop(WAIT_S)


def test_the_end_of_the_thread_is_told_to_those_whose_submission_was_not_read(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama")).start()
    reading, go_on = threading.Event(), threading.Event()

    def fail(core: object) -> None:
        reading.set()
        assert go_on.wait(WAIT_S)
        raise AttributeError

    consumer.engine._inbox.put(fail)
    assert reading.wait(WAIT_S)
    refused = consumer.submit([1], greedy(3))
    go_on.set()
    [event] = consumer.wait(refused)
    assert event.finish_reason is FinishReason.ERROR
    assert "AttributeError" in str(event.error)
    with pytest.raises(EngineError, match="the engine has ended"):
        consumer.submit([1], greedy(3))
    assert consumer.engine.stop(WAIT_S)


def test_a_failed_boot_is_told_to_those_who_submitted_before(tiny_snapshot: TinySnapshot) -> None:
    consumer = Consumer(tiny_snapshot("llama"), msgspec.structs.replace(OPTIONS, max_model_len=10**6))
    early = consumer.submit([1], greedy(3))
    consumer.start()
    [event] = consumer.wait(early)
    assert event.finish_reason is FinishReason.ERROR
    assert "ConfigurationError" in str(event.error)


def test_a_consumer_that_is_gone_ends_the_engine_visibly(
    tiny_snapshot: TinySnapshot, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(tiny_snapshot("llama"), OPTIONS, BootTimeline())
    booted = threading.Event()

    def post(_: Callable[[], None]) -> None:
        if booted.is_set():
            raise RuntimeError("Event loop is closed")
        booted.set()

    engine.start(post, lambda _: None)
    assert booted.wait(WAIT_S)
    engine.submit([1], greedy(3), lambda _: None)
    assert engine._thread is not None
    engine._thread.join(WAIT_S)
    assert engine.state is EngineState.FAILED
    assert not engine.is_alive
    assert "engine thread failed" in caplog.text


def python(code: str, *arguments: str) -> str:
    """Output of a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "module",
    ["engine", "pool", "step", "status", "options", "loaded", "tokenizer", "chat_template", "config", "scheduler"],
)
def test_torch_is_not_needed_to_import(module: str) -> None:
    code = f"import sys, handler.engine.{module}; print({{'torch', 'numpy', 'transformers'}} & set(sys.modules))"
    assert python(code) == "set()\n"


def test_serving_imports_nothing_that_only_prepare_needs(tiny_snapshot: TinySnapshot) -> None:
    code = """
import pathlib, queue, sys
from handler.boot import BootTimeline
from handler.engine.engine import Engine
from handler.engine.snapshot import Manifest, Snapshot
from handler.engine.options import EngineOptions
from handler.engine.sampling_params import SamplingParams
manifest = Manifest(format_version=1, source="", name="tiny", files=(), created_at="")
engine = Engine(Snapshot(pathlib.Path(sys.argv[1]), "tiny", manifest), EngineOptions(device="cpu"), BootTimeline())
posted, boot, events = queue.SimpleQueue(), [], []
engine.start(posted.put, boot.append)
params = SamplingParams(max_tokens=3, top_p=0.9, logprobs=2, repetition_penalty=1.1, ignore_eos=True)
engine.submit([1, 2], params, events.append)
while not events or events[-1].finish_reason is None:
    posted.get(timeout=60)()
assert boot == [None], boot
assert engine.stop(60)
print(sorted({"transformers", "gguf", "huggingface_hub", "starlette"} & set(sys.modules)))
"""
    assert python(code, str(tiny_snapshot("qwen2").directory)) == "[]\n"
