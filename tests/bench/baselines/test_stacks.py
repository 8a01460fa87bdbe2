"""Every stack on a socket: what it answers is what the function answers, and so is what it refuses."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest

from bench.baselines.chat import CHAT_PATH
from bench.baselines.fortunes import SCRIPT, fortunes
from bench.baselines.plan import NUM_GREETINGS
from handler.requestlog.record import Record, Status
from tests.bench.baselines.served import Served, chat, events

USER = {"role": "user", "content": "hi"}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "narrator", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [USER, {"role": "user", "content": 3}]}, "messages[1].content"),
    ({"messages": [USER | {"mood": "good"}]}, "messages[0].mood"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.0}, "max_tokens"),
    ({"max_tokens": 10_000_000}, "max_tokens"),
    ({"max_completion_tokens": 4}, "max_completion_tokens"),
    ({"min_tokens": 6}, "min_tokens"),
    ({"stop": [""]}, "stop[0]"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"metadata": {"key": 1}}, "metadata"),
    ({"colour": "red"}, "colour"),
]


async def test_plain_workloads(served: Served) -> None:
    async with served.client() as client:
        assert (await client.get("/ready")).json() == {"status": "ready"}
        hello = await client.get("/json")
        assert hello.headers["content-type"] == "application/json"
        assert hello.content == b'{"message":"Hello, World!"}'
        rows = [(await client.get("/database")).json() for _ in range(10)]
        assert all(row == {"id": row["id"], "message": f"Hello, number {row['id']}!"} for row in rows)
        assert all(1 <= row["id"] <= NUM_GREETINGS for row in rows)
        assert len({row["id"] for row in rows}) > 1


async def test_a_page_has_every_row_and_no_script(served: Served) -> None:
    async with served.client() as client:
        page = await client.get("/template")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.count("<tr>") == 1 + len(fortunes())
    assert all(row["message"] in page.text for row in fortunes() if row["message"] != SCRIPT)
    assert SCRIPT not in page.text
    assert "&lt;script&gt;" in page.text


async def test_a_whole_answer_is_ours(served: Served, ours: Served) -> None:
    async with served.client() as theirs, ours.client() as own:
        answers = [await client.post(CHAT_PATH, json=chat()) for client in (theirs, own)]
    assert [answer.headers["content-type"] for answer in answers] == ["application/json"] * 2
    first, second = (_whole(answer) for answer in answers)
    assert first == second
    assert first["choices"][0]["message"]["content"] == " one two three four five"
    assert first["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("fields", [{}, {"stream_options": {"include_usage": True}}])
async def test_a_stream_is_ours(served: Served, ours: Served, fields: dict[str, Any]) -> None:
    async with served.client() as theirs, ours.client() as own:
        streams = [await events(client, chat(**fields)) for client in (theirs, own)]
    first, second = ([_unnamed(event) for event in stream] for stream in streams)
    assert first == second
    assert len(first) == 1 + 5 + 1 + len(fields)  # role, tokens, finish reason, and usage where it was asked for


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[f"{param}-{n}" for n, (_, param) in enumerate(REFUSED)])
async def test_what_we_refuse_is_refused(served: Served, fields: dict[str, Any], param: str) -> None:
    async with served.client() as client:
        answer = await client.post(CHAT_PATH, json=chat(**fields))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"] or "").startswith(param)
    assert error["type"] == "invalid_request_error"
    assert param.rsplit(".", maxsplit=1)[-1] in error["message"]


async def test_other_refusals(served: Served) -> None:
    async with served.client() as client:
        broken = await client.post(CHAT_PATH, content=b'{"model":', headers={"content-type": "application/json"})
        assert (broken.status_code, broken.json()["error"]["param"]) == (400, None)
        unknown = await client.post(CHAT_PATH, json=chat(model="another"))
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        for key in ({"authorization": "Bearer sk-wrong"}, {"authorization": ""}):
            answer = await client.post(CHAT_PATH, json=chat(), headers=key)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_every_request_has_its_row(served: Served) -> None:
    bodies = {
        "whole": chat(metadata={"kind": "whole"}),
        "stream": chat(stream=True),
        "bad": chat(temperature=3),
        "unknown": chat(model="another"),
    }
    ids = {name: uuid.uuid4().hex for name in (*bodies, "keyless")}
    async with served.client() as client:
        for name, body in bodies.items():
            answer = await client.post(CHAT_PATH, json=body, headers={"x-request-id": ids[name]})
            assert answer.headers["x-request-id"] == ids[name]
        await client.post(CHAT_PATH, json=chat(), headers={"x-request-id": ids["keyless"], "authorization": "Bearer x"})
    rows = {name: await served.row(request_id) for name, request_id in ids.items()}
    for name in ("whole", "stream"):
        row = rows[name]
        assert (row.status, row.http_status, row.stream) == (Status.SUCCESS, 200, name == "stream")
        assert (row.model_name, row.api_key_id, row.endpoint) == ("stub", "bench", CHAT_PATH)
        assert (row.prompt_tokens, row.completion_tokens, row.finish_reason) == (2, 5, "length")
        assert row.ttft_ms is not None
        assert row.queue_ms is not None
        assert row.duration_ms is not None
        assert 0 < row.queue_ms <= row.ttft_ms <= row.duration_ms
    assert rows["whole"].metadata == {"kind": "whole"}
    assert _end(rows["bad"]) == (Status.ERROR, 400, "InvalidRequestError")
    assert _end(rows["unknown"]) == (Status.ERROR, 404, "UnknownModelError")
    assert _end(rows["keyless"]) == (Status.REJECTED, 401, "AuthenticationError")


async def test_twenty_streams_at_once(served: Served) -> None:
    async with served.client() as client:
        streams = await asyncio.gather(*(events(client, chat(max_tokens=20)) for _ in range(20)))
    texts = {"".join(event["choices"][0]["delta"].get("content", "") for event in stream) for stream in streams}
    words = " one two three four five six seven eight"
    assert texts == {words + words + " one two three four"}


async def test_a_stream_comes_as_it_is_made(served: Served) -> None:
    async with served.client() as client, asyncio.timeout(20):
        body = chat(stream=True, max_tokens=30_000)  # half a minute
        async with client.stream("POST", CHAT_PATH, json=body) as response:
            lines, line = response.aiter_lines(), ""
            while '"content":" two"' not in line:
                line = await anext(lines)
            assert '"finish_reason":null' in line


async def test_leaving_a_stream_cancels_it(served: Served) -> None:
    request_id = uuid.uuid4().hex
    async with served.client() as client:
        body, headers = chat(stream=True, max_tokens=60_000), {"x-request-id": request_id}
        async with client.stream("POST", CHAT_PATH, json=body, headers=headers) as response:
            await anext(response.aiter_lines())
    row = await served.row(request_id)
    assert _end(row) == (Status.CANCELLED, 200, "ClientDisconnectedError")
    assert row.completion_tokens is not None
    assert row.completion_tokens < 60_000


async def test_leaving_a_whole_answer(served: Served) -> None:
    """FastAPI, and all that give a request a thread, learn nothing of a client that leaves meanwhile."""
    request_id, notices = uuid.uuid4().hex, served.stack in {"pilotlight", "django-asgi"}
    async with served.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(
                CHAT_PATH, json=chat(max_tokens=1500), headers={"x-request-id": request_id}, timeout=httpx.Timeout(0.5)
            )
    row = await served.row(request_id)
    assert row.status is (Status.CANCELLED if notices else Status.SUCCESS)
    assert row.http_status == (499 if notices else 200)


def _whole(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert body["id"] == f"chatcmpl-{answer.headers['x-request-id']}"
    return _unnamed(body)


def _unnamed(body: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from one answer to the next. The order of the fields counts."""
    return {"fields": list(body), **body, "id": None, "created": None}


def _end(row: Record) -> tuple[Status, int | None, str | None]:
    return row.status, row.http_status, row.error_type
