"""What a client or the settings keep secret, sought in everything that a real server writes down or answers."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from handler.engine.engine import Engine
from handler.engine.events import OnEvent
from handler.engine.listeners import Handle
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.logs import JsonFormatter
from tests.asgi import Application
from tests.server import DEADLINE_S, ServerProcess, until

KEY, WRONG_KEY, DATABASE, REDIS = "sk-hunter2-right", "sk-hunter2-wrong", "hunter2-database", "hunter2-redis"
PROMPT = "hunter2-prompt"
METADATA = "kept on purpose'); drop table request_logs; --"

TOOL = {"type": "function", "function": {"name": "f", "description": PROMPT, "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": PROMPT})}}
CHAT: dict[str, Any] = {
    "model": "llama",
    "messages": [
        {"role": "system", "content": PROMPT},
        {"role": "user", "content": [{"type": "text", "text": PROMPT}], "name": PROMPT},
        {"role": "assistant", "content": PROMPT, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": PROMPT},
    ],
    "tools": [TOOL],
    "stop": [PROMPT],
    "bad_words": [PROMPT],
    "user": PROMPT,
    "metadata": {"a": METADATA},
    "max_tokens": 2,
}
SCHEMA = {"type": "object", "properties": {"a": {"const": PROMPT}}, "required": ["a"]}
TEXT: dict[str, Any] = {"model": "llama", "prompt": [PROMPT, f"{PROMPT} more"], "max_tokens": 2, "stop": PROMPT}
RESPONSE: dict[str, Any] = {"model": "llama", "instructions": PROMPT, "input": PROMPT, "max_output_tokens": 16}

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"stream": True, "n": 2}),
    ("/v1/completions", TEXT),
    ("/v1/completions", {"model": "llama", "prompt": PROMPT, "guided_json": SCHEMA}),
    ("/v1/responses", RESPONSE),
    ("/tokenize", {"model": "llama", "messages": CHAT["messages"]}),
    ("/invocations", {"instances": [TEXT, CHAT | {"n": 999}]}),
]
FAULTS: list[dict[str, Any]] = [
    {"model": "other"},
    {"temperature": 9},
    {"nonsense": 1},
    {"n": 999},
    {"max_tokens": 10**6, "max_output_tokens": 10**6},
    {"max_tokens": "2", "max_output_tokens": "2"},
    {"messages": PROMPT, "prompt": {PROMPT: 1}, "input": 5},
    {"messages": [{"role": "user", "content": PROMPT * 200}], "prompt": PROMPT * 200, "input": PROMPT * 200},
    {"messages": [{"role": "user", "content": [PROMPT]}], "prompt": [PROMPT, 1], "input": [PROMPT]},
    {"messages": [{"role": "tool", "tool_call_id": "d", "content": PROMPT}]},
    {"input": [{"type": "x", "content": PROMPT}]},
    {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": PROMPT}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PROMPT}}]}]},
    {"stop": [PROMPT] * 500},
    {"guided_json": {"not": {"const": PROMPT}}},
    {"tool_choice": {"type": "function", "function": {"name": "g"}}},
    {"stream_options": {}},
    {"top_logprobs": 3},
]  # fmt: skip


def broken(body: dict[str, Any]) -> list[bytes]:
    """Bodies that are no JSON."""
    text = json.dumps(body).encode()
    mangled = text.replace(PROMPT.encode(), PROMPT.encode() + b"\xff", 1), text.replace(b":", b"", 1)
    return [text[:-3], text + b"}", text + text, b"\xef\xbb\xbf" + text, b"[" * 5000 + text, *mangled]


async def exchange(address: str, head: str) -> str:
    """A request that no client library would send, and the answer to it."""
    parts = urlsplit(address)
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n")
        answer = await reader.read(1 << 16)
        writer.close()
        await writer.wait_closed()
    return answer.decode("latin-1")


async def ask_with_wrong_keys(client: httpx.AsyncClient, address: str) -> list[str]:
    """Answers to those who have no key, or do not know where to put it."""
    basic = base64.b64encode(f"user:{WRONG_KEY}".encode()).decode()
    presented: list[dict[str, str]] = [
        {"authorization": f"Bearer {WRONG_KEY}"},
        {"authorization": f"Bearer {KEY} {WRONG_KEY}"},
        {"authorization": f"Basic {basic}"},
        {"authorization": KEY},
        {"x-api-key": KEY, "cookie": f"key={KEY}", "proxy-authorization": f"Bearer {KEY}"},
    ]
    answers = []
    for headers in presented:
        for path in ("/v1/chat/completions", "/v1/nothing", f"/v1/models?api_key={KEY}", f"/health?key={KEY}"):
            response = await client.post(path, json=CHAT, headers=headers)
            assert response.status_code == (405 if path.startswith("/health") else 401)
            answers.append(f"{response.headers}{response.text}")
    for head in (
        f"GET /v1/models HTTP/1.1\nhost: a\nauthorization: Bearer {KEY}\nbad header {KEY}",
        f"GET /v1/models HTTP/1.1\nhost: a\nauthorization: Bearer {KEY}\xff\nconnection: close",
        f"GET /v1/models HTTP/9.9\nauthorization: Bearer {KEY}",
        f"{KEY} /v1/models HTTP/1.1\nhost: a\nconnection: close",
        f"POST /v1/x HTTP/1.1\nhost: a\nauthorization: {WRONG_KEY}\ncontent-length: -{KEY}",
    ):
        answer = await exchange(address, head)
        assert answer.startswith("HTTP/1.1 4")
        assert "server:" not in answer.lower()
        answers.append(answer)
    return answers


async def send_faults(client: httpx.AsyncClient) -> list[str]:
    """Answers to all kinds of bad requests with prompts in them."""
    answers = []
    for path, body in GOOD[:5]:
        for fault in FAULTS:
            response = await client.post(path, json=body | fault)
            assert response.status_code in {200, 400, 404}, (fault, response.text)
            if response.status_code != 200:
                answers.append(f"{response.headers}{response.text}")
        for content in broken(body):
            response = await client.post(path, content=content)
            assert response.status_code == 400, content[:20]
            answers.append(f"{response.headers}{response.text}")
        for headers in ({"content-type": "text/plain"}, {"content-encoding": "gzip"}):
            response = await client.post(path, content=json.dumps(body), headers=headers)
            assert response.status_code == 415
            answers.append(response.text)
    response = await client.post("/v1/completions", content=PROMPT.encode() * (1 << 17))
    assert response.status_code == 413
    return [*answers, response.text]


def contents(directory: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in directory.rglob("*") if path.is_file())


async def all_rows(url: str, count: int) -> str:
    """Every column of every row, once there are that many."""
    connection = await asyncpg.connect(url)

    async def look() -> str | None:
        found = await connection.fetch("select row_to_json(request_logs)::text as row from request_logs")
        return "\n".join(row["row"] for row in found) if len(found) >= count else None

    try:
        return await until(look, f"{count} rows")
    finally:
        await connection.close()


async def test_no_secret_is_written_down_or_answered(tiny_served: Snapshot, postgres_url: str, tmp_path: Path) -> None:
    environ = {
        "PILOTLIGHT_HOME": str(tmp_path),
        "MODEL_NAME": str(tiny_served.directory),
        "MODEL_DEVICE": "cpu",
        "LOG_LEVEL": "debug",
        "MAX_BODY_BYTES": "1048576",
        "DATABASE_URL": postgres_url.replace("postgres@", f"postgres:{DATABASE}@"),
        "API_KEYS": f"alice:{KEY}",
        "RATE_LIMIT_REQUESTS_PER_MINUTE": "100000",
        "REDIS_URL": f"redis://:{REDIS}@127.0.0.1:9/0",
    }
    assert DATABASE in environ["DATABASE_URL"]
    posted: list[httpx.Request] = []

    async def count(request: httpx.Request) -> None:
        if request.method == "POST" and request.url.path != "/health":
            posted.append(request)

    with ServerProcess(environ) as server:
        hooks = {"request": [count]}
        async with httpx.AsyncClient(base_url=server.address, timeout=DEADLINE_S, event_hooks=hooks) as client:
            answers = await ask_with_wrong_keys(client, server.address)
            client.headers["authorization"] = f"Bearer {KEY}"
            answers += await send_faults(client)
            for path, body in GOOD:
                response = await client.post(path, json=body)
                assert response.status_code == 200, response.text
            assert max(map(len, answers)) < 3000
            for path in ("/metrics", "/startup", "/health", "/openapi.json", f"/v1/models/{'x' * 9000}"):
                answers.append((await client.get(path)).text)
        rows = await all_rows(postgres_url, len(posted))
        assert server.stop() == 0
    spool = contents(tmp_path)
    written = {"the log": "\n".join(server.lines), "rows": rows, "answers": "\n".join(answers), "the spool": spool}
    for secret in (KEY, WRONG_KEY, DATABASE, REDIS, PROMPT, base64.b64encode(f"user:{WRONG_KEY}".encode()).decode()):
        for place, text in written.items():
            at = text.find(secret)
            assert at < 0, f"{secret} in {place}: {text[max(0, at - 300) : at + 100]}"
    assert METADATA in rows
    assert METADATA not in written["the log"]
    assert all(json.loads(line) for line in server.lines)


@pytest.mark.parametrize("text", ['\n{"level":"info"}', "\r\x1b[2J", "\u2028", "\ud800"])
async def test_what_a_client_wrote_is_one_line_of_the_log(server: ServerProcess, text: str) -> None:
    body = json.dumps({"model": f"forged{text}", "prompt": "hi"})
    async with httpx.AsyncClient(base_url=server.address, timeout=DEADLINE_S) as client:
        response = await client.post("/v1/completions", content=body)
    assert response.status_code in {400, 404}
    request_id = response.headers["x-request-id"]

    async def look() -> list[str] | None:
        return [line for line in list(server.lines) if request_id in line] or None

    (line,) = await until(look, "the request is logged")
    assert json.loads(line)["http_status"] == response.status_code
    assert not re.search(r"[\x00-\x1f\x7f]", line)


class Defective(Engine):
    """Has a defect that speaks of what it was given."""

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        raise ValueError(f"cannot handle {PROMPT}")


async def test_a_defect_is_reported_without_its_words(
    tiny_served: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Application(tiny_served, tmp_path, engine_type=Defective) as application:
        response = await application.client.post("/v1/completions", json=TEXT)
        assert response.status_code == 500
        assert response.json()["error"]["message"] == "The server made an error"
        (record,) = application.records()
        assert (record.error_type, record.error_message) == ("ValueError", None)
    logged = "".join(JsonFormatter().format(record) for record in caplog.records)
    assert "ValueError" in logged
    assert "test_secrets.py" in logged  # where it happened
    assert PROMPT not in logged + response.text
