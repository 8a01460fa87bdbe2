"""What a real server cannot be made to do on purpose: `send` that waits, defects, cancellation from outside."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from handler.engine.engine import Engine
from handler.engine.events import FinishReason, OnEvent, TokenEvent
from handler.engine.listeners import Handle
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.errors import NothingLeftError
from handler.formats.text_logprobs import LogprobLists
from handler.requestlog.record import Record, Status
from handler.schema.text import CompletionLogprobs
from tests.asgi import Application, Exchange
from tests.scripted import Script, ends, likely, says, scripted
from tests.server import until

PATH = "/v1/completions"


def asking(snapshot: Snapshot, max_tokens: int = 900, **fields: Any) -> dict[str, Any]:
    """Long by default: the model's 1024 tokens take about a second."""
    base = {"model": snapshot.name, "prompt": "hello", "temperature": 0, "ignore_eos": True, "max_tokens": max_tokens}
    return base | fields


def model_name(snapshot: Snapshot) -> dict[str, str]:
    return {"model_name": snapshot.name}


SLOW = {"TORCH_DTYPE": "float32"}
"""In int8 the tiny model is through before anything can happen to it."""


def only(records: list[Record]) -> Record:
    (record,) = records
    return record


async def is_running(application: Application) -> bool | None:
    return application.engine.stats.num_running > 0 or None


def last_event(exchange: Exchange) -> dict[str, Any]:
    frame = exchange.body.split(b"\n\n")[-2]
    event: dict[str, Any] = orjson.loads(frame.removeprefix(b"data: "))
    return event


async def test_a_client_that_leaves_while_send_waits_frees_its_sequence(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path) as application:
        exchange = Exchange(application, PATH, asking(tiny_served, stream=True))
        exchange.block_at(3)
        await exchange.is_blocked.wait()
        exchange.leave()
        await exchange.done()
        await application.idle()
        record = only(application.records())
        assert (record.status, record.error_type, record.http_status) == (
            Status.CANCELLED,
            "ClientDisconnectedError",
            200,
        )
        assert record.completion_tokens is not None
        assert 1 <= record.completion_tokens < 900
        # One step may have been under way, and one more begun before the engine heard of it.
        computed = application.service.metrics.registry.get_sample_value(
            "llm_tokens_generated_total", model_name(tiny_served)
        )
        assert computed is not None
        assert computed - record.completion_tokens <= 2
        assert application.service.admission.occupancy.num_admitted == 0


async def test_a_client_that_reads_nothing_is_given_up_after_the_timeout(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, {"REQUEST_TIMEOUT": "0.3"} | SLOW) as application:
        exchange = Exchange(application, PATH, asking(tiny_served, stream=True))
        exchange.block_at(2)
        await exchange.done()
        await application.idle()
        assert not exchange.is_complete
        assert only(application.records()).status is Status.TIMEOUT
        assert application.service.admission.occupancy.num_admitted == 0


async def test_a_stream_that_takes_too_long_ends_with_an_error_event(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, {"REQUEST_TIMEOUT": "0.3"} | SLOW) as application:
        exchange = Exchange(application, PATH, asking(tiny_served, stream=True, n=8))
        await exchange.done()
        assert exchange.is_complete
        assert last_event(exchange)["error"]["type"] == "timeout_error"
        assert b"[DONE]" not in exchange.body
        assert only(application.records()).status is Status.TIMEOUT


async def test_a_whole_answer_that_takes_too_long_is_a_504(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, {"REQUEST_TIMEOUT": "0.3"} | SLOW) as application:
        exchange = Exchange(application, PATH, asking(tiny_served, n=8))
        await exchange.done()
        assert exchange.status == 504
        assert orjson.loads(exchange.body)["error"]["type"] == "timeout_error"
        await application.idle()
        record = only(application.records())
        assert (record.status, record.http_status, record.error_type) == (Status.TIMEOUT, 504, "DeadlineExceededError")
        assert record.completion_tokens


async def test_a_whole_answer_cut_short_is_not_followed_by_anything(tiny_served: Snapshot, tmp_path: Path) -> None:
    """Its content-length is out already; an error event behind it would be read as part of the answer."""
    async with Application(tiny_served, tmp_path, {"REQUEST_TIMEOUT": "0.3"} | SLOW) as application:
        exchange = Exchange(application, PATH, asking(tiny_served, max_tokens=1))
        exchange.block_at(1)
        await exchange.is_blocked.wait()
        exchange.is_blocked.clear()
        blocked_again = asyncio.create_task(exchange.is_blocked.wait())
        await asyncio.wait({blocked_again, exchange.task}, return_when=asyncio.FIRST_COMPLETED)
        blocked_again.cancel()
        exchange.may_send.set()
        await exchange.done()
        assert [message["type"] for message in exchange.messages] == ["http.response.start"]


async def test_a_response_that_could_not_begin_is_given_up(tiny_served: Snapshot, tmp_path: Path) -> None:
    """`send` waits before the first byte where an earlier response on the connection has not been read."""
    async with Application(tiny_served, tmp_path, {"REQUEST_TIMEOUT": "0.3"} | SLOW) as application:
        exchange = Exchange(application, PATH, asking(tiny_served, stream=True))
        exchange.block_at(0)
        await exchange.done()
        await application.idle()
        assert exchange.messages == []
        assert only(application.records()).status is Status.TIMEOUT


@pytest.mark.parametrize("stream", [True, False])
async def test_a_drain_that_takes_too_long_is_said_to_the_client(
    stream: bool, tiny_served: Snapshot, tmp_path: Path
) -> None:
    """What uvicorn does when DRAIN_TIMEOUT is over: it cancels the task."""
    async with Application(tiny_served, tmp_path) as application:
        exchange = Exchange(application, PATH, asking(tiny_served, stream=stream))
        if stream:
            await exchange.sent(3)
        else:
            await until(lambda: is_running(application), "the sequence runs")
        application.service.admission.is_stopping = True
        exchange.task.cancel()
        await exchange.done()
        await application.idle()
        assert exchange.is_complete
        error = (last_event(exchange) if stream else orjson.loads(exchange.body))["error"]
        assert (error["type"], error["code"]) == ("service_unavailable_error", "stopping")
        assert exchange.status == (200 if stream else 503)
        record = only(application.records())
        assert record.status is (Status.ERROR if stream else Status.REJECTED)
        assert record.error_type == "StoppingError"


@pytest.mark.parametrize("sent_messages", [0, 3])
async def test_what_a_server_gives_up_and_goes_on_was_left_by_its_client(
    sent_messages: int, tiny_served: Snapshot, tmp_path: Path
) -> None:
    """What Ray Serve does when a client leaves: it cancels the task."""
    async with Application(tiny_served, tmp_path) as application:
        exchange = Exchange(application, PATH, asking(tiny_served, stream=True))
        if sent_messages:
            await exchange.sent(sent_messages)
        else:
            await until(lambda: is_running(application), "the sequence runs")
        exchange.task.cancel()
        await exchange.done()
        await application.idle()
        record = only(application.records())
        assert (record.status, record.error_type) == (Status.CANCELLED, "ClientDisconnectedError")


@pytest.mark.parametrize(("is_stopping", "expected"), [(False, 499), (True, 503)])
async def test_so_it_is_before_the_body_was_complete(
    is_stopping: bool, expected: int, tiny_served: Snapshot, tmp_path: Path
) -> None:
    """At an endpoint that reads its body by itself."""
    async with Application(tiny_served, tmp_path) as application:
        exchange = Exchange(application, "/tokenize", {})
        exchange._body = None  # it never comes
        await asyncio.sleep(0)
        application.service.admission.is_stopping = is_stopping
        exchange.task.cancel()
        await exchange.done()
        await application.idle()
        record = only(application.records())
        assert record.http_status == expected
        assert record.status is (Status.REJECTED if is_stopping else Status.CANCELLED)


class BrokenEngine(Engine):
    """Has a defect that nobody thought of."""

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        raise ZeroDivisionError("secret text")


async def test_a_defect_is_a_500_that_tells_nothing_but_its_id(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, engine_type=BrokenEngine) as application:
        exchange = Exchange(application, PATH, asking(tiny_served), x_request_id="mine")
        with pytest.raises(ZeroDivisionError):
            await exchange.done()
        assert exchange.status == 500
        assert orjson.loads(exchange.body)["error"]["type"] == "server_error"
        assert b"secret" not in exchange.body
        assert exchange.headers["x-request-id"] == "mine"
        record = only(application.records())
        assert (record.status, record.http_status, record.error_type) == (Status.ERROR, 500, "ZeroDivisionError")
        assert application.service.admission.occupancy.num_admitted == 0


class LateBrokenEngine(Engine):
    """Hands over events that cannot be written, once it is told to."""

    is_broken = False

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        def broken(event: TokenEvent) -> None:
            on_event(TokenEvent(text=5, token_ids=(1,)) if self.is_broken else event)  # type: ignore[arg-type]

        return super().submit(prompt_tokens, params, broken)


async def test_a_defect_in_mid_stream_cuts_the_stream(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, engine_type=LateBrokenEngine) as application:
        exchange = Exchange(application, PATH, asking(tiny_served, stream=True))
        await exchange.sent(2)
        assert isinstance(application.engine, LateBrokenEngine)
        application.engine.is_broken = True
        with pytest.raises(TypeError):
            await exchange.done()
        assert not exchange.is_complete
        await application.idle()
        record = only(application.records())
        assert (record.status, record.http_status, record.error_type) == (Status.ERROR, 200, "TypeError")


async def test_too_many_prompts_are_named_as_such(tiny_served: Snapshot, tmp_path: Path) -> None:
    environ = {"MAX_BATCH_SIZE": "2", "MAX_QUEUED_REQUESTS": "1"}
    async with Application(tiny_served, tmp_path, environ) as application:
        for fields, param in (({"prompt": ["a"] * 4}, "prompt"), ({"n": 4}, "n")):
            exchange = Exchange(application, PATH, asking(tiny_served, **fields))
            await exchange.done()
            assert exchange.status == 400
            assert orjson.loads(exchange.body)["error"]["param"] == param


async def test_the_prompts_of_one_request_answer_in_order(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path) as application:
        together = Exchange(application, PATH, asking(tiny_served, 8, prompt=["a", "b"], n=2))
        await together.done()
        texts = [choice["text"] for choice in orjson.loads(together.body)["choices"]]
        assert [choice["index"] for choice in orjson.loads(together.body)["choices"]] == [0, 1, 2, 3]
        alone = []
        for prompt in ("a", "b"):
            exchange = Exchange(application, PATH, asking(tiny_served, 8, prompt=prompt))
            await exchange.done()
            alone.append(orjson.loads(exchange.body)["choices"][0]["text"])
        assert texts == [alone[0], alone[0], alone[1], alone[1]]
        assert alone[0] != alone[1]


async def test_prompts_and_completions_are_kept_only_where_asked_for(tiny_served: Snapshot, tmp_path: Path) -> None:
    for setting in ("0", "1"):
        async with Application(tiny_served, tmp_path / setting, {"LOG_PROMPTS": setting}) as application:
            exchange = Exchange(application, PATH, asking(tiny_served, 4, n=2))
            await exchange.done()
            texts = [choice["text"] for choice in orjson.loads(exchange.body)["choices"]]
            record = only(application.records())
            if setting == "1":
                assert record.prompt == "hello"
                assert orjson.loads(record.completion or "") == texts
            else:
                assert (record.prompt, record.completion) == (None, None)


async def test_what_was_not_the_best_is_not_kept(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, {"LOG_PROMPTS": "1"}) as application:
        body = asking(tiny_served, 4, prompt=["a", "b"], n=2, best_of=6, temperature=1, seed=1)
        exchange = Exchange(application, PATH, body)
        await exchange.done()
        texts = [choice["text"] for choice in orjson.loads(exchange.body)["choices"]]
        assert orjson.loads(only(application.records()).completion or "") == texts


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("length", "is_long"), [(200, False), (300, True)])
async def test_long_lists_of_log_probabilities_are_written_beside_the_event_loop(
    tiny_served: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool, length: int, is_long: bool
) -> None:
    threads: list[int] = []
    write = LogprobLists.prompt

    def noting(*arguments: Any) -> CompletionLogprobs:
        threads.append(threading.get_ident())
        return write(*arguments)

    monkeypatch.setattr(LogprobLists, "prompt", noting)
    async with Application(tiny_served, tmp_path) as application:
        body = asking(tiny_served, 1, prompt="a" * length, echo=True, logprobs=2, stream=stream)
        exchange = Exchange(application, PATH, body)
        await exchange.done()
    assert exchange.body.count(b"text_offset") >= 1
    assert [thread != threading.get_ident() for thread in threads] == [is_long]


NOW = {"name": "now", "parameters": {"type": "object", "properties": {}}}
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function", "function": NOW}],
}
RESPONSE: dict[str, Any] = {"input": "hi", "tools": [{"type": "function", **NOW}]}
CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "now"}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "said", "reason"),
    [
        ("/v1/chat/completions", CHAT, CALL, "tool_calls"),
        ("/v1/chat/completions", CHAT, "No.", "stop"),
        ("/v1/chat/completions", CHAT | {"tool_choice": NAMED}, CALL, "stop"),
        ("/v1/responses", RESPONSE, CALL, "tool_calls"),
        ("/v1/responses", RESPONSE, "No.", "stop"),
    ],
)
async def test_the_record_has_the_finish_reason_of_the_answer(
    path: str, fields: dict[str, Any], said: str, reason: str, stream: bool, tiny_served: Snapshot, tmp_path: Path
) -> None:
    engine_type = scripted([(0, ends(said, FinishReason.STOP))])
    async with Application(tiny_served, tmp_path, engine_type=engine_type) as application:
        exchange = Exchange(application, path, fields | {"model": tiny_served.name, "stream": stream})
        await exchange.done()
        assert exchange.status == 200
        assert only(application.records()).finish_reason == reason
    if path == "/v1/chat/completions":
        assert f'"finish_reason":"{reason}"' in exchange.body.decode()


async def test_the_record_has_the_finish_reason_of_the_best(tiny_served: Snapshot, tmp_path: Path) -> None:
    script: Script = [
        (0, ends("a", logprobs=(likely("a", -9.0),))),
        (1, ends("b", FinishReason.STOP, logprobs=(likely("b", -0.5),))),
        (2, ends("c", logprobs=(likely("c", -99.0),))),
    ]
    async with Application(tiny_served, tmp_path, engine_type=scripted(script)) as application:
        exchange = Exchange(application, PATH, asking(tiny_served, n=2, best_of=3, logprobs=0))
        await exchange.done()
        choice, _ = orjson.loads(exchange.body)["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("b", "stop")
        assert only(application.records()).finish_reason == "stop"


async def test_what_leaves_no_token_is_the_clients_to_mend(tiny_served: Snapshot, tmp_path: Path) -> None:
    stuck = TokenEvent(finish_reason=FinishReason.ERROR, error=NothingLeftError("nothing is left"))
    async with Application(tiny_served, tmp_path, engine_type=scripted([(0, stuck)])) as application:
        response = await application.client.post("/v1/completions", json={"model": "llama", "prompt": "a"})
        (record,) = application.records()
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert (record.status, record.http_status, record.error_type) == (Status.ERROR, 400, "NothingLeftError")


async def test_a_client_that_reads_slowly_makes_nobody_expect_slow_service(
    tiny_served: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = scripted([(0, says("a", first_scheduled_s=time.monotonic())), (0, ends("b"))])
    async with Application(tiny_served, tmp_path, {"API_KEYS": ""}, engine_type=engine) as application:
        exchange = Exchange(application, PATH, asking(tiny_served))
        exchange.block_at(0)
        await exchange.is_blocked.wait()
        later_s = time.monotonic() + 100
        monkeypatch.setattr("handler.occupancy.time", SimpleNamespace(monotonic=lambda: later_s))
        exchange.may_send.set()
        await exchange.done()
        wait_s = application.service.admission.occupancy.rate.duration_s(0, 1)
    assert wait_s is not None
    assert wait_s < 100
