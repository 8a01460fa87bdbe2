"""Tools in the model's own form, markers that are special tokens included: the embedded model under other templates."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handler.engine.snapshot import MANIFEST_FILE, Snapshot, open_snapshot
from tests import tool_templates as templates
from tests.asgi import Application

# Special tokens that the embedded model has and never uses, and what they are called here.
RENAMED = {"<gh_stars>": "[TOOL_CALLS]", "<issue_start>": "[ARGS]", "<issue_closed>": "<|python_tag|>"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "get_weather", "parameters": templates.WEATHER}}
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Paris?"}]


def disguised(snapshot: Snapshot, directory: Path, template: str) -> Snapshot:
    """The same weights, under another template, with markers among the special tokens."""
    for file in snapshot.directory.iterdir():
        (directory / file.name).symlink_to(file)
    tokenizer = (snapshot.directory / "tokenizer.json").read_text()
    for token, marker in RENAMED.items():
        tokenizer = tokenizer.replace(json.dumps(token), json.dumps(marker))
    written: dict[str, bytes] = {
        "tokenizer.json": tokenizer.encode(),
        "chat_template.jinja": template.encode(),
        MANIFEST_FILE: msgspec.json.encode(msgspec.structs.replace(snapshot.manifest, files=())),
    }
    for name, content in written.items():
        (directory / name).unlink(missing_ok=True)
        (directory / name).write_bytes(content)
    return open_snapshot(directory)


@pytest.fixture(params=["NAMED", "LLAMA"])
async def application(
    request: pytest.FixtureRequest, embedded_snapshot: Snapshot, tmp_path: Path
) -> AsyncIterator[Application]:
    directory = tmp_path / "disguised"
    directory.mkdir()
    snapshot = disguised(embedded_snapshot, directory, getattr(templates, request.param))
    async with Application(snapshot, tmp_path / "home") as application:
        yield application


async def test_calls_are_made_in_the_models_own_form(application: Application) -> None:
    body = {
        "model": (await application.client.get("/v1/models")).json()["data"][0]["id"],
        "messages": MESSAGES,
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 100,
        "logprobs": True,
    }
    whole = (await application.client.post("/v1/chat/completions", json=body)).json()
    (choice,) = whole["choices"]
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert set(arguments) == {"city", "unit"}
    assert choice["finish_reason"] == "tool_calls"
    written = "".join(entry["token"] for entry in choice["logprobs"]["content"])
    assert written.startswith(('{"name": "get_weather", "parameters": {"', "[TOOL_CALLS]get_weather[ARGS]{"))

    streamed = (await application.client.post("/v1/chat/completions", json=body | {"stream": True})).text
    events = [json.loads(line.removeprefix("data: ")) for line in streamed.splitlines() if line.startswith("data: {")]
    pieces = [part for event in events for part in event["choices"][0]["delta"].get("tool_calls", [])]
    assert "".join(part["function"]["arguments"] for part in pieces) == call["function"]["arguments"]

    answered = [
        *MESSAGES,
        choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "18 degrees"},
    ]
    again = await application.client.post(
        "/v1/chat/completions", json=body | {"messages": answered, "tool_choice": "auto", "max_tokens": 4}
    )
    assert again.status_code == 200, again.text
