from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest

from bench.stub_engine import WORDS, StubEngine
from bench.stub_model import STUB_MODEL, stub_model, stub_snapshot, tokenizing_model
from handler.engine.events import FinishReason, TokenEvent
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.errors import EngineError
from handler.requestlog.record import Status
from tests.asgi import Application, Exchange
from tests.server import until

PATH = "/v1/chat/completions"


@pytest.fixture(params=[0.0, 0.001])
async def application(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Application]:
    def engine(snapshot: Snapshot, *_: object) -> StubEngine:
        return StubEngine(snapshot, stub_model(), request.param)

    async with Application(stub_snapshot(), tmp_path, engine_type=engine) as application:
        yield application


def asking(max_tokens: int, **fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "Count, please."}]
    return {"model": STUB_MODEL, "messages": messages, "max_tokens": max_tokens} | fields


async def test_everybody_gets_the_same_words(application: Application) -> None:
    exchanges = [Exchange(application, PATH, asking(10)) for _ in range(3)]
    for exchange in exchanges:
        await exchange.done()
        answer = orjson.loads(exchange.body)
        assert answer["choices"][0]["message"]["content"] == "".join([*WORDS, *WORDS[:2]])
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 10
    for record in application.records():
        assert record.status is Status.SUCCESS
        assert record.queue_ms is not None


async def test_a_stream_has_an_event_for_each_token(application: Application) -> None:
    exchange = Exchange(application, PATH, asking(10, stream=True))
    await exchange.done()
    assert exchange.body.count(b"data: ") == 10 + 3  # role, finish reason and end


async def test_a_client_that_leaves_frees_its_sequence(application: Application) -> None:
    exchange = Exchange(application, PATH, asking(60_000, stream=True))
    await exchange.sent(3)
    exchange.leave()
    await exchange.done()
    await application.idle()
    registry = application.service.metrics.registry
    made = registry.get_sample_value("llm_tokens_generated_total", {"model_name": STUB_MODEL})
    assert made is not None
    assert 0 < made < 60_000


class Consumer:
    """Runs what is posted when it is told to."""

    def __init__(self) -> None:
        self.posted: list[Callable[[], None]] = []
        self.events: list[TokenEvent] = []

    def run_one(self) -> None:
        self.posted.pop(0)()


async def test_a_step_waits_until_the_last_one_was_taken() -> None:
    consumer = Consumer()
    engine = StubEngine(stub_snapshot(), stub_model())
    with pytest.raises(EngineError):
        engine.submit([1], SamplingParams(max_tokens=3), consumer.events.append)
    engine.start(consumer.posted.append, lambda _: None)
    consumer.run_one()
    engine.submit([1], SamplingParams(max_tokens=3), consumer.events.append)
    for number in range(1, 4):

        async def posted() -> bool | None:
            return True if consumer.posted else None

        await until(posted, "a step")
        assert len(consumer.posted) == 1
        consumer.run_one()
        assert len(consumer.events) == number
    assert [event.text for event in consumer.events] == list(WORDS[:3])
    assert [event.finish_reason for event in consumer.events] == [None, None, FinishReason.LENGTH]
    assert await asyncio.to_thread(engine.stop, 5.0)


def test_the_tokenizing_model_is_the_prepared_ones(embedded_snapshot: Snapshot) -> None:
    model = tokenizing_model(embedded_snapshot)
    assert model.chat_template is not None
    text = model.chat_template.render([{"role": "user", "content": "hi"}])
    assert "<|im_start|>user" in text
    assert (
        model.tokenizer.decode(model.tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=False)
        == text
    )
