from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from handler.engine.snapshot import Snapshot
from handler.requestlog.record import Record, Status
from tests.asgi import Application, Exchange
from tests.server import until

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "temperature": 0}
TEXT: dict[str, Any] = {"prompt": "hi", "max_tokens": 3, "temperature": 0}
NAMED = {"model": "llama", "ignore_eos": True}


@pytest.fixture
async def application(tiny_served: Snapshot, tmp_path: Path) -> AsyncIterator[Application]:
    async with Application(tiny_served, tmp_path, {"LOG_PROMPTS": "1", "REQUEST_TIMEOUT": "20"}) as application:
        yield application


def record(application: Application) -> Record:
    (found,) = application.records()
    return found


@pytest.mark.parametrize(("body", "path"), [(CHAT, "/v1/chat/completions"), (TEXT, "/v1/completions")])
async def test_the_shape_says_which_endpoint_answers(application: Application, body: dict[str, Any], path: str) -> None:
    direct = (await application.client.post(path, json=NAMED | body)).json()
    application.records()
    response = await application.client.post("/invocations", json=NAMED | body)
    answer = response.json()
    assert answer["object"] == direct["object"]
    assert answer["choices"] == direct["choices"]
    assert answer["id"].endswith(response.headers["x-request-id"])
    row = record(application)
    assert (row.endpoint, row.model_name, row.completion_tokens) == ("/invocations", "llama", 3)


async def test_a_stream_comes_as_events(application: Application) -> None:
    exchange = Exchange(application, "/invocations", NAMED | CHAT | {"stream": True})
    await exchange.done()
    assert exchange.headers["content-type"].startswith("text/event-stream")
    *chunks, last = [event.removeprefix("data: ") for event in exchange.body.decode().split("\n\n")[:-1]]
    assert last == "[DONE]"
    assert {json.loads(chunk)["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len(chunks) > 2  # the role, some text, the end
    assert record(application).stream is True


async def test_instances_run_together_and_their_predictions_keep_the_order(application: Application) -> None:
    alone = [
        (await application.client.post("/invocations", json=NAMED | body)).json()["choices"] for body in (TEXT, CHAT)
    ]
    application.records()
    body = {"instances": [TEXT, CHAT, TEXT | {"max_tokens": 5}], "parameters": NAMED | {"max_tokens": 1}}
    response = await application.client.post("/invocations", json=body)
    first, second, third = response.json()["predictions"]
    assert [first["choices"], second["choices"]] == alone
    assert third["usage"]["completion_tokens"] == 5
    assert len({first["id"], second["id"], third["id"]}) == 3
    row = record(application)
    assert (row.status, row.model_name, row.http_status) == (Status.SUCCESS, "llama", 200)
    assert (row.prompt_tokens, row.completion_tokens) == (2 + 3 + 2, 3 + 3 + 5)
    assert row.ttft_ms is not None
    assert row.prompt[::2] == ["hi", "hi"]
    assert row.prompt[1][0]["content"] == "hi"
    assert row.completion is not None
    assert json.loads(row.completion)[0] == first["choices"][0]["text"]


async def test_one_instance_that_fails_does_not_lose_the_others(application: Application) -> None:
    body = {"instances": [TEXT, TEXT | {"temperature": 9}], "parameters": NAMED}
    response = await application.client.post("/invocations", json=body)
    assert response.status_code == 200
    good, bad = response.json()["predictions"]
    assert good["choices"][0]["finish_reason"] == "length"
    assert bad["error"]["param"] == "temperature"
    row = record(application)
    assert (row.status, row.error_type, row.completion_tokens) == (Status.ERROR, "InvalidRequestError", 3)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, None),
        ([], 400, None),
        ({"model": "llama"}, 400, None),
        (TEXT | {"model": "other"}, 404, "model"),
        (NAMED | TEXT | CHAT, 400, "prompt"),
        ({"instances": []}, 400, "instances"),
        ({"instances": ["hi"]}, 400, "instances[0]"),
        ({"instances": [TEXT] * 129, "parameters": NAMED}, 400, "instances"),
        ({"instances": [TEXT, {}], "parameters": NAMED}, 400, "instances[1]"),
        ({"instances": [TEXT | {"stream": True}], "parameters": NAMED}, 400, "instances[0].stream"),
        ({"instances": [TEXT], "parameters": NAMED, "model": "llama"}, 400, "model"),
        ({"instances": [TEXT | {"model": "other"}] * 2}, 404, "model"),
    ],
)
async def test_a_bad_request_names_its_field(
    application: Application, body: object, status: int, param: str | None
) -> None:
    response = await application.client.post("/invocations", json=body)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param
    assert record(application).http_status == status


async def test_a_client_that_leaves_frees_all_its_sequences(application: Application) -> None:
    endless = {"prompt": "hi", "max_tokens": 1000}
    exchange = Exchange(application, "/invocations", {"instances": [endless] * 3, "parameters": NAMED})

    async def look() -> bool | None:
        return True if application.engine.stats.num_running == 3 else None

    await until(look, "all instances run")
    exchange.leave()
    await exchange.done()
    await application.idle()
    assert record(application).status is Status.CANCELLED
    assert exchange.messages == []
