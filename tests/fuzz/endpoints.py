"""Every endpoint that takes a body, whole: HTTP's bytes are left out, an engine that says a word is put in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
from starlette.types import Message

from bench.stub_engine import StubEngine
from bench.stub_model import tokenizing_model
from handler.app import create_app
from handler.boot import BootTimeline
from handler.engine.events import FinishReason, OnEvent, TokenEvent, TokenLogprob
from handler.engine.grammar import Grammar, GrammarCompiler, GrammarSpec
from handler.engine.listeners import Handle
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.errors import InvalidRequestError
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from handler.settings import Settings
from tests.fuzz.mutation import TEXTS, mutated_json
from tests.fuzz.runner import Target
from tests.requestlog.records import records_of

_REFUSALS = {400, 404, 413, 415, 429}
_READ_TOGETHER = 200
_MAX_GRAMMARS = 300
"""Each is tried in a process of its own first; the rest are refused untried."""
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
_SAMPLING: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "seed": 7,
    "stop": ["x", "yy"],
    "max_tokens": 4,
    "logit_bias": {"5": 1.5},
    "bad_words": ["no"],
    "stop_token_ids": [3],
    "metadata": {"a": "b"},
}
_CHAT: dict[str, Any] = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}
_TOOLS: dict[str, Any] = {
    "messages": [
        *_CHAT["messages"],
        {"role": "assistant", "content": None, "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "Rain"}]},
    ],
    "tools": [_TOOL],
    "tool_choice": "auto",
    "chat_template_kwargs": {},
}
_RESPONSE: dict[str, Any] = {
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "Rain"},
    ],
    "instructions": "Be brief.",
    "tools": [{"type": "function", **_TOOL["function"]}],  # type: ignore[dict-item]
    "text": {"format": {"type": "text"}},
}
_STREAM = {"stream": True, "stream_options": {"include_usage": True}}
SEEDS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        _CHAT | _SAMPLING,
        _CHAT | {"stream": True, "n": 2, "logprobs": True, "top_logprobs": 1},
        _TOOLS | _STREAM,
        _TOOLS,
        _CHAT
        | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
    ],
    "/v1/completions": [
        {"prompt": "1, 2,"} | _SAMPLING,
        {"prompt": ["a", "b"], "n": 2, "best_of": 3, "echo": True, "logprobs": 1, "max_tokens": 0},
        {"prompt": [[5, 6], [7]], **_STREAM},
        {"prompt": [5, 6], "guided_regex": "[a-c]+"},
    ],
    "/v1/responses": [
        _RESPONSE,
        _RESPONSE | {"stream": True},
        {"input": "Hi", "temperature": 0, "max_output_tokens": 3},
    ],
    "/tokenize": [{"prompt": "Hello", "return_token_strs": True}, _CHAT, _TOOLS],
    "/detokenize": [{"tokens": [72, 105, 0]}],
    "/invocations": [
        _CHAT | _SAMPLING,
        {"prompt": "a"},
        {"instances": [{"prompt": "a"}, _CHAT], "parameters": {"n": 1}},
    ],
}


class _FewGrammars(GrammarCompiler):
    """Refuses what it is asked for once it has compiled so many."""

    num_left = _MAX_GRAMMARS

    def _try(self, spec: GrammarSpec) -> Grammar | str:
        if not self.num_left:
            raise InvalidRequestError("Enough grammars have been tried", "grammar")
        self.num_left -= 1
        return super()._try(spec)


class _OneWord(StubEngine):
    """Says one odd word to everybody, without a thread."""

    num_submitted = 0

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        self.num_submitted += 1
        text = TEXTS[self.num_submitted % len(TEXTS)].encode(errors="ignore").decode()
        scored = TokenLogprob(5, -1.0, ((6, -2.0),))
        event = TokenEvent(
            text=text,
            token_ids=(5,) if params.max_tokens else (),
            logprobs=None if params.logprobs is None else (scored,) * min(1, params.max_tokens),
            prompt_logprobs=None if params.prompt_logprobs is None else (scored,) * (len(prompt_tokens) - 1),
            finish_reason=FinishReason.LENGTH,
        )
        asyncio.get_running_loop().call_soon(on_event, event)
        return Handle(self.num_submitted, lambda _: None)


class FunctionUnderFire:
    """The application on an event loop of its own."""

    def __init__(self, snapshot: Snapshot, directory: Path) -> None:
        settings = Settings.from_env({"PILOTLIGHT_HOME": str(directory), "MODEL_NAME": "m", "DATABASE_URL": "none"})
        model = tokenizing_model(snapshot)
        few = _FewGrammars(model.tokenizer, snapshot.directory / "tokenizer.json", (0,), 49152)
        info = msgspec.structs.replace(model.info, vocab_size=49152, max_model_len=2048)
        model = msgspec.structs.replace(model, info=info, grammars=few)
        self._spool = Spool(settings.spool_directory)
        engine = _OneWord(msgspec.structs.replace(snapshot, name="m"), model)
        self._app = create_app(settings, engine, LogSink(self._spool, None), BootTimeline())
        self._num_unread = 0
        self._loop = asyncio.new_event_loop()
        self._lifespan = self._app.router.lifespan_context(self._app)

    def start(self) -> None:
        self._loop.run_until_complete(self._lifespan.__aenter__())
        self._loop.run_until_complete(self._app.state.service.booted())

    def stop(self) -> None:
        self._loop.run_until_complete(self._lifespan.__aexit__(None, None, None))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def post(self, path: str, body: bytes) -> str:
        """What the answer was; an assertion fails where it is none that may be."""
        sent: list[Message] = []
        self._loop.run_until_complete(self._call(path, body, sent))
        self._num_unread += 1
        if self._num_unread == _READ_TOGETHER:
            self._read_records()
        status, content = sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
        assert not sent[-1].get("more_body", False)
        if status != 200:
            assert status in _REFUSALS, f"{status} {content[:300]!r}"
            return f"{status} {orjson.loads(content)['error']['param']}"
        if sent[0]["headers"][0][1].startswith(b"text/event-stream"):
            _check_events(content)
            return "ok stream"
        json.loads(content)
        return "ok"

    def _read_records(self) -> None:
        """Each request has left a record."""
        while (batch := self._spool.read(1000, 1 << 22)) is not None:
            self._spool.acknowledge(batch)
            self._num_unread -= len(records_of(batch))  # and not the boot
        assert self._num_unread == 0

    async def _call(self, path: str, body: bytes, sent: list[Message]) -> None:
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if not waiting:
                await asyncio.Event().wait()
            return waiting.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [],
        }
        await self._app(scope, receive, send)


def _check_events(content: bytes) -> None:
    assert content.endswith(b"\n\n")
    for event in content.removesuffix(b"\n\n").split(b"\n\n"):
        for line in event.splitlines():  # as lenient clients do it, so that no text must look like a line's end
            name, _, data = line.partition(b": ")
            assert name in {b"data", b"event", b""}, line
            assert name != b"data" or data == b"[DONE]" or json.loads(data)


@contextlib.contextmanager
def endpoints(snapshot: Snapshot) -> Iterator[list[Target]]:
    """A target for each endpoint."""
    with tempfile.TemporaryDirectory() as directory:
        function = FunctionUnderFire(snapshot, Path(directory))
        function.start()
        try:
            yield [_target(function, path) for path in SEEDS]
        finally:
            function.stop()


def _target(function: FunctionUnderFire, path: str) -> Target:
    return Target(
        name=path.rpartition("/")[2] if path != "/v1/chat/completions" else "chat",
        share=60 if path != "/detokenize" else 25,
        seeds=[json.dumps({"model": "m", **seed}).encode() for seed in SEEDS[path]],
        mutate=mutated_json,
        run=lambda body: function.post(path, body),
    )
