"""Too many requests, and too much of each, inside this process: the engine does what the test says."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from bench.stub_engine import StubEngine
from bench.stub_model import STUB_MODEL, StubTokenizer, stub_model, stub_snapshot
from handler.engine.engine import Engine
from handler.engine.events import OnEvent, TokenEvent
from handler.engine.listeners import Handle
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.formats.text import TextFormat
from handler.requestlog.record import Record, Status
from tests.asgi import Application, Exchange
from tests.scripted import ends, says
from tests.server import until

PATH = "/v1/completions"
LARGE = 100_000
"""Bytes of a body that is decoded and tokenized in a thread."""


class DirectedEngine(Engine):
    """Takes sequences in, and yields what the test says for them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.listeners: list[OnEvent] = []
        self.cancelled: list[int] = []

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        self.listeners.append(on_event)
        return Handle(len(self.listeners) - 1, self.cancelled.append)


def directed(snapshot: Snapshot, directory: Path, **environ: str) -> Application:
    return Application(snapshot, directory, environ, engine_type=DirectedEngine)


async def submitted(application: Application, count: int) -> list[OnEvent]:
    engine: Any = application.engine

    async def look() -> list[OnEvent] | None:
        return engine.listeners if len(engine.listeners) >= count else None

    return await until(look, f"{count} sequences are submitted")


def asking(**fields: Any) -> dict[str, Any]:
    return {"model": "llama", "prompt": "hello", "max_tokens": 4} | fields


def error_of(exchange: Exchange) -> dict[str, Any]:
    """Of a whole response, or the last event of a stream."""
    frame = exchange.body.strip().split(b"\n\n")[-1]
    error: dict[str, Any] = orjson.loads(frame.removeprefix(b"data: "))["error"]
    return error


def only(records: list[Record]) -> Record:
    (record,) = records
    return record


@pytest.mark.parametrize("stream", [False, True])
async def test_who_waits_too_long_is_told_so(stream: bool, tiny_served: Snapshot, tmp_path: Path) -> None:
    async with directed(tiny_served, tmp_path, QUEUE_TIMEOUT="0.2", HEARTBEAT_INTERVAL="0.02") as application:
        exchange = Exchange(application, PATH, asking(stream=stream, n=2))
        await exchange.done()
        error = error_of(exchange)
        assert (error["type"], "waited 0.2 s" in error["message"]) == ("timeout_error", True)
        assert exchange.status == (200 if stream else 504)
        assert application.engine.cancelled == [0, 1]  # type: ignore[attr-defined]
        record = only(application.records())
        assert (record.status, record.error_type) == (Status.TIMEOUT, "DeadlineExceededError")
        assert (record.queue_ms, record.ttft_ms, record.completion_tokens) == (None, None, 0)
        assert application.service.admission.occupancy.num_admitted == 0


async def test_a_wait_that_ends_leaves_nothing_behind(tiny_served: Snapshot, tmp_path: Path) -> None:
    environ = {"MAX_BATCH_SIZE": "1", "QUEUE_TIMEOUT": "0.2", "TORCH_DTYPE": "float32"}
    async with Application(tiny_served, tmp_path, environ) as application:
        running = Exchange(application, PATH, asking(max_tokens=900, ignore_eos=True, stream=True))
        await running.sent(2)
        waiting = Exchange(application, PATH, asking())
        await waiting.done()
        assert waiting.status == 504
        before = len(running.messages)
        await running.sent(before + 3)
        assert application.engine.stats.num_waiting == 0
        running.leave()
        await running.done()
        await application.idle()


@pytest.mark.parametrize(
    "began",
    [
        [TokenEvent(first_scheduled_s=1.0)],  # a part of its prompt is computed
        [says("a", first_scheduled_s=1.0)],
    ],
)
async def test_who_has_begun_waits_no_longer(began: list[TokenEvent], tiny_served: Snapshot, tmp_path: Path) -> None:
    async with directed(tiny_served, tmp_path, QUEUE_TIMEOUT="0.2") as application:
        first, other = Exchange(application, PATH, asking(n=2)), Exchange(application, PATH, asking())
        listeners = await submitted(application, 3)
        for event in began:
            listeners[0](event)  # one of its two
        await other.done()  # its time is over, and the first one's would be
        assert other.status == 504
        for listener in listeners[:2]:
            listener(ends("b", first_scheduled_s=2.0))
        await first.done()
        assert first.status == 200
        records = {record.http_status: record for record in application.records()}
        assert records[200].queue_ms is not None


async def test_the_wait_for_the_model_is_not_a_wait_for_a_turn(tiny_served: Snapshot, tmp_path: Path) -> None:
    """A cold start may take longer than QUEUE_TIMEOUT; REQUEST_TIMEOUT bounds it."""

    class LateEngine(DirectedEngine):
        def start(self, post: Any, on_boot: Any) -> None:
            self.boot = lambda: super(LateEngine, self).start(post, on_boot)

    environ = {"QUEUE_TIMEOUT": "0.1", "REQUEST_TIMEOUT": "0.6"}
    application = Application(tiny_served, tmp_path, environ, engine_type=LateEngine)
    async with application.app.router.lifespan_context(application.app):
        exchange, stream = (Exchange(application, PATH, asking(stream=stream)) for stream in (False, True))
        await exchange.done()
        await stream.done()
        assert (exchange.status, stream.status) == (504, 504)
        assert "took longer than 0.6 s" in error_of(exchange)["message"]
        assert [record.status for record in application.records()] == [Status.TIMEOUT] * 2
        late = Exchange(application, PATH, asking())
        application.engine.boot()  # type: ignore[attr-defined]
        await late.done()
        assert "waited 0.1 s" in error_of(late)["message"]  # counted from the end of the boot on


async def test_a_full_queue_before_the_boot_is_a_503(tiny_served: Snapshot, tmp_path: Path) -> None:
    class NeverEngine(DirectedEngine):
        def start(self, post: Any, on_boot: Any) -> None:
            """Boot for ever."""

    environ = {"MAX_BATCH_SIZE": "1", "MAX_QUEUED_REQUESTS": "1", "REQUEST_TIMEOUT": "5"}
    application = Application(tiny_served, tmp_path, environ, engine_type=NeverEngine)
    async with application.app.router.lifespan_context(application.app):
        waiting = [Exchange(application, PATH, asking()) for _ in range(2)]

        async def both_wait() -> bool | None:
            return application.service.admission.occupancy.num_admitted == 2 or None

        await until(both_wait, "both wait")
        refused = Exchange(application, PATH, asking())
        await refused.done()
        assert (refused.status, error_of(refused)["code"]) == (503, "starting")
        assert refused.headers["retry-after"] == "1"
        for exchange in waiting:
            exchange.leave()
            await exchange.done()
        assert only([row for row in application.records() if row.http_status == 503]).status is Status.REJECTED


async def test_a_request_ends_in_time_in_the_middle_of_its_prompt(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with directed(tiny_served, tmp_path, REQUEST_TIMEOUT="0.2") as application:
        exchange = Exchange(application, PATH, asking())
        (listener,) = await submitted(application, 1)
        listener(TokenEvent(first_scheduled_s=time.monotonic()))
        await exchange.done()
        assert exchange.status == 504
        assert application.engine.cancelled == [0]  # type: ignore[attr-defined]
        record = only(application.records())
        assert (record.status, record.completion_tokens) == (Status.TIMEOUT, 0)
        assert record.queue_ms is not None


class Held:
    """Planning that lasts until the test lets it go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.num_begun = 0
        plan = TextFormat.plan

        def slow(form: TextFormat, request: Any, *arguments: Any) -> Any:
            self.num_begun += 1
            self.go_on.wait(30)
            return plan(form, request, *arguments)

        monkeypatch.setattr(TextFormat, "plan", slow)

    async def begun(self, count: int) -> None:
        async def look() -> bool | None:
            return self.num_begun >= count or None

        await until(look, f"{count} requests are being tokenized")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_ends_in_time_while_it_is_tokenized(
    stream: bool, held: Held, tiny_served: Snapshot, tmp_path: Path
) -> None:
    async with directed(tiny_served, tmp_path, REQUEST_TIMEOUT="0.3") as application:
        exchange = Exchange(application, PATH, asking(prompt="x" * LARGE, stream=stream))
        await held.begun(1)
        await exchange.done()
        held.go_on.set()
        assert exchange.status == 504
        assert only(application.records()).status is Status.TIMEOUT
        assert application.service.admission.occupancy.num_admitted == 0
        assert application.service.admission.occupancy.waiting_tokens == 0


async def test_large_prompts_keep_nobody_from_answers_and_refusals(
    held: Held, tiny_served: Snapshot, tmp_path: Path
) -> None:
    environ = {"MAX_BATCH_SIZE": "5", "MAX_QUEUED_REQUESTS": "1"}
    async with directed(tiny_served, tmp_path, **environ) as application:
        large = [Exchange(application, PATH, asking(prompt="x" * LARGE)) for _ in range(5)]
        await held.begun(4)  # and the fifth waits for a thread
        small = Exchange(application, "/v1/chat/completions", {
            "model": "llama", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1,
        })  # fmt: skip
        (listener,) = await submitted(application, 1)
        refused = Exchange(application, PATH, asking())
        await refused.done()
        assert refused.status == 429
        listener(ends("a", first_scheduled_s=1.0))
        await small.done()
        assert small.status == 200
        for exchange in large:
            exchange.leave()
        for exchange in large:
            await exchange.done()
        held.go_on.set()


@pytest.mark.parametrize("length", [100, LARGE])
async def test_a_refusal_comes_before_decoding_where_nobody_could_get_in(
    length: int, tiny_served: Snapshot, tmp_path: Path
) -> None:
    async with directed(tiny_served, tmp_path, MAX_BATCH_SIZE="1", MAX_QUEUED_REQUESTS="0") as application:
        first = Exchange(application, PATH, asking())
        await submitted(application, 1)
        refused = Exchange(application, PATH, {"nonsense": "x" * length}, content_length=str(length))
        await refused.done()
        assert (refused.status, error_of(refused)["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        record = only(application.records())
        assert (record.status, record.model_name, record.stream) == (Status.REJECTED, None, None)
        first.leave()
        await first.done()


class FewTokens(StubTokenizer):
    """Any text is one token, so that nothing but texts could take memory."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        del text, add_special_tokens
        return [1]


async def test_nothing_of_the_size_of_its_body_is_kept_while_a_request_waits(tmp_path: Path) -> None:
    model = msgspec.structs.replace(stub_model(), tokenizer=FewTokens())
    count, size = 8, 500_000

    def engine(snapshot: Snapshot, *_: object) -> StubEngine:
        return StubEngine(snapshot, model, 0.001, max_batch_size=1)

    environ = {"MAX_BATCH_SIZE": "1", "MAX_QUEUED_TOKENS": str(count * size)}
    async with Application(stub_snapshot(), tmp_path, environ, engine_type=engine) as application:
        running = Exchange(application, PATH, {"model": STUB_MODEL, "prompt": "a", "stream": True})
        await running.sent(2)

        async def all_wait() -> bool | None:
            return application.engine.stats.num_waiting == count or None

        tracemalloc.start()
        try:
            waiting = []
            for number in range(count):
                path = "/invocations" if number % 2 else PATH
                body = {"model": STUB_MODEL, "prompt": "x" * size, "stream": True}
                waiting.append(Exchange(application, path, body))
            del body
            await until(all_wait, "all requests wait")
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak > size  # it was seen
        assert kept < count * size / 4
        for exchange in [running, *waiting]:
            exchange.leave()
            await exchange.done()


async def test_when_to_come_back_grows_with_the_queue_and_comes_true(tmp_path: Path) -> None:
    """Two places, 20 tokens of 5 ms each: twenty sequences a second."""
    environ = {"MAX_BATCH_SIZE": "2", "MAX_QUEUED_REQUESTS": "32"}

    def engine(snapshot: Snapshot, *_: object) -> StubEngine:
        return StubEngine(snapshot, stub_model(), 0.005, max_batch_size=2)

    def ask() -> Exchange:
        return Exchange(application, PATH, {"model": STUB_MODEL, "prompt": "a", "max_tokens": 20})

    async with Application(stub_snapshot(), tmp_path, environ, engine_type=engine) as application:
        admission = application.service.admission
        for exchange in [ask() for _ in range(8)]:
            await exchange.done()
        expected = []
        asked = []
        for _ in range(34):
            asked.append(ask())
            await asyncio.sleep(0)
            if admission.occupancy.num_admitted > 2:
                expected.append(admission.expected_wait_s())
        began_s = time.monotonic()
        refused = ask()
        await refused.done()
        assert refused.status == 429
        promised_s = int(refused.headers["retry-after"])
        assert expected[-1] > 3 * expected[0]  # eight times as many wait, unless some ended while others came
        assert expected[-1] is not None
        assert expected[-1] <= promised_s < expected[-1] + 1.5

        async def all_have_begun() -> bool | None:
            return admission.occupancy.num_waiting == 0 or None

        await until(all_have_begun, "all have begun")
        waited_s = time.monotonic() - began_s
        assert waited_s / 3 < expected[-1] < waited_s * 3
        for exchange in asked:
            await exchange.done()
            assert exchange.status == 200
