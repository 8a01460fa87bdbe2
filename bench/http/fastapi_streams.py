"""What a FastAPI user writes to stream a chat: an async generator, JSON made for each event, and `StreamingResponse`.

Twice: over the same engine as ours, with a queue for each request, and without any engine, as fast as a generator goes.
No keys, no metrics, no log. Frames are ours to the byte.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from bench.stub_engine import WORDS, StubEngine
from handler.engine.events import TokenEvent
from handler.engine.sampling_params import SamplingParams


class Message(BaseModel):
    """One message of the conversation."""

    role: str
    content: str


class ChatRequest(BaseModel):
    """The fields that the benchmark sends."""

    model: str
    messages: list[Message]
    max_tokens: int
    stream: bool


def streaming_app(engine: StubEngine | None) -> FastAPI:
    """The endpoint, over an engine or over nothing."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if engine is not None:
            engine.start(asyncio.get_running_loop().call_soon_threadsafe, lambda _: None)
        yield
        if engine is not None:
            engine.stop(5.0)

    app = FastAPI(lifespan=lifespan)

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> StreamingResponse:
        texts = _made_up(request.max_tokens) if engine is None else _generated(engine, request.max_tokens)
        return StreamingResponse(_events(request.model, texts), media_type="text/event-stream")

    return app


async def _made_up(max_tokens: int) -> AsyncIterator[str]:
    for number in range(max_tokens):
        yield WORDS[number % len(WORDS)]


async def _generated(engine: StubEngine, max_tokens: int) -> AsyncIterator[str]:
    queue: asyncio.Queue[TokenEvent] = asyncio.Queue()
    engine.submit([1], SamplingParams(max_tokens=max_tokens), queue.put_nowait)
    finished = False
    while not finished:
        event = await queue.get()
        finished = event.finish_reason is not None
        yield event.text


async def _events(model: str, texts: AsyncIterator[str]) -> AsyncIterator[str]:
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }
    yield _event(head, {"role": "assistant", "content": ""})
    async for text in texts:
        yield _event(head, {"content": text})
    yield _event(head, {}, "length")
    yield "data: [DONE]\n\n"


def _event(head: dict[str, Any], delta: dict[str, str], finish_reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return f"data: {json.dumps({**head, 'choices': [choice]}, separators=(',', ':'))}\n\n"
