"""Streams that wait: comments go out, and nothing else changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import orjson
import pytest
from starlette.types import Message

from handler.choice import Choice
from handler.engine.engine import Engine
from handler.engine.events import OnEvent, TokenEvent
from handler.engine.listeners import Handle, OnBoot, Post
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.errors import EngineError
from handler.outbox import PUSHER
from handler.reply import PushedAnswer, Reply
from handler.requestlog.record import Status
from tests.asgi import Application, Exchange
from tests.conftest import TEST_HOME
from tests.server import DEADLINE_S, ServerProcess, free_port, until

PATH = "/v1/chat/completions"
BEAT = b": keep-alive\n\n"
OFTEN = {"HEARTBEAT_INTERVAL": "0.02"}
BODY = {"model": "llama", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "ignore_eos": True}
STREAM = BODY | {"stream": True}


class HeldEngine(Engine):
    """Boots, or answers, only when it is let go."""

    def start(self, post: Post, on_boot: OnBoot) -> None:
        self.boot = lambda: super(HeldEngine, self).start(post, on_boot)
        self.fail = lambda: on_boot(EngineError("no luck"))

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        self.answer = lambda: super(HeldEngine, self).submit(prompt_tokens, params, on_event)
        return Handle(0, lambda _: None)


@asynccontextmanager
async def held(snapshot: Snapshot, directory: Path, environ: dict[str, str]) -> AsyncIterator[tuple[Application, Any]]:
    application = Application(snapshot, directory, environ, engine_type=HeldEngine)
    async with application.app.router.lifespan_context(application.app):
        yield application, application.engine


async def test_a_stream_shows_life_while_the_model_boots_and_while_it_waits(
    tiny_served: Snapshot, tmp_path: Path
) -> None:
    async with held(tiny_served, tmp_path, OFTEN) as (application, engine):
        exchange = Exchange(application, PATH, STREAM)
        await exchange.sent(3)
        assert (exchange.status, exchange.body) == (200, BEAT * 2)
        assert exchange.headers["content-type"] == "text/event-stream; charset=utf-8"
        engine.boot()
        await application.service.booted()
        while not hasattr(engine, "answer"):
            await exchange.sent(len(exchange.messages) + 1)
        await exchange.sent(len(exchange.messages) + 2)
        assert exchange.body == BEAT * (len(exchange.messages) - 1)
        engine.answer()
        await exchange.done()
        comments, *events = exchange.body.rpartition(BEAT)[2].split(b"\n\n")
        role = orjson.loads(comments.removeprefix(b"data: "))["choices"][0]["delta"]
        assert role == {"role": "assistant", "content": ""}
        assert events[-2:] == [b"data: [DONE]", b""]
        (record,) = application.records()
        assert (record.status, record.completion_tokens, record.http_status) == (Status.SUCCESS, 3, 200)


async def test_a_failure_after_a_heartbeat_is_an_event(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with held(tiny_served, tmp_path, OFTEN) as (application, engine):
        exchange = Exchange(application, PATH, STREAM)
        await exchange.sent(2)
        engine.fail()
        await exchange.done()
        assert exchange.is_complete
        assert exchange.status == 200
        event = exchange.body.removeprefix(BEAT * exchange.body.count(BEAT))
        error = orjson.loads(event.removeprefix(b"data: "))["error"]
        assert error["type"] == "server_error"
        assert error["message"] == "The model could not be loaded; the server's log says why"
        (record,) = application.records()
        assert (record.status, record.http_status, record.error_type) == (Status.ERROR, 200, "EngineError")


@pytest.mark.parametrize("interval", ["60", "0"])
async def test_a_failure_before_the_first_heartbeat_keeps_its_status(
    interval: str, tiny_served: Snapshot, tmp_path: Path
) -> None:
    async with held(tiny_served, tmp_path, {"HEARTBEAT_INTERVAL": interval}) as (application, engine):
        exchange = Exchange(application, PATH, STREAM)
        await until_waiting(application)
        engine.fail()
        await exchange.done()
        assert exchange.status == 500
        assert orjson.loads(exchange.body)["error"]["type"] == "server_error"


async def test_a_whole_answer_never_begins_early(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with held(tiny_served, tmp_path, OFTEN) as (application, engine):
        whole, stream = Exchange(application, PATH, BODY), Exchange(application, PATH, STREAM)
        await stream.sent(5)  # the clock
        assert whole.messages == []
        engine.fail()
        await whole.done()
        await stream.done()
        assert whole.status == 500


async def test_a_slow_client_has_one_heartbeat_to_read_at_most(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with held(tiny_served, tmp_path, OFTEN) as (application, engine):
        engine.boot()
        await application.service.booted()
        slow, clock = Exchange(application, PATH, STREAM), Exchange(application, PATH, STREAM)
        slow.block_at(2)
        await slow.is_blocked.wait()
        await clock.sent(len(clock.messages) + 5)
        assert len(slow.messages) == 2
        slow.may_send.set()
        await slow.sent(3)
        assert slow.body == BEAT * 2
        for exchange in (slow, clock):
            exchange.leave()
            await exchange.done()


async def test_a_heartbeat_comes_only_after_silence(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, {"HEARTBEAT_INTERVAL": "30"}) as application:
        exchange = Exchange(application, PATH, STREAM)
        await exchange.done()
        assert b": " not in exchange.body.replace(b"data: ", b"")


async def test_openais_client_reads_over_them(embedded_snapshot: Snapshot, tmp_path: Path) -> None:
    port = free_port()
    environ = {
        "PILOTLIGHT_HOME": str(TEST_HOME),
        "SPOOL_DIR": str(tmp_path / "spool"),
        "DATABASE_URL": "none",
        "HEARTBEAT_INTERVAL": "0.01",
    }
    process = ServerProcess(environ, "--port", str(port))
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=DEADLINE_S)

    async def stream() -> Any:
        try:
            return await client.chat.completions.create(
                model="smollm2-135m",
                messages=[{"role": "user", "content": "What is the capital of France?"}],
                temperature=0,
                stream=True,
            )
        except openai.APIConnectionError:
            return None

    try:
        found = await until(stream, "the server listens")
        assert not process.entries("ready")  # the response has begun, and the model is not there yet
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in found])
        assert "Paris" in text
    finally:
        process.kill()
        await client.close()


async def until_waiting(application: Application) -> None:
    async def look() -> bool | None:
        return application.service.admission.occupancy.num_admitted > 0 or None

    await until(look, "the request waits for the model")


async def test_what_is_pushed_breaks_the_silence() -> None:
    loop: Any = SimpleNamespace(time=lambda: clock[0])
    clock = [1.0]
    pushed: list[bytes] = []
    pusher: Any = SimpleNamespace(is_ready=lambda: True, push=pushed.append)
    answer: Any = SimpleNamespace(event=lambda _, event: event.text.encode())
    reply = Reply(_nowhere, loop, {PUSHER: pusher})
    clock[0] = 2.0
    PushedAnswer(answer, reply, pusher, loop).take(Choice(0), TokenEvent(text="a"))
    assert (pushed, reply.written_s) == ([b"a"], 2.0)
    clock[0] = 3.0
    PushedAnswer(answer, reply, pusher, loop).take(Choice(0), TokenEvent())  # half a character, which is nothing yet
    assert (pushed, reply.written_s) == ([b"a"], 2.0)


async def _nowhere(message: Message) -> None:
    raise AssertionError(message)
