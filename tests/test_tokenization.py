from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from handler.admission import LARGE_BODY_BYTES
from handler.engine.snapshot import Snapshot
from tests.asgi import Application
from tests.server import ServerProcess, until

MODEL = "smollm2-135m"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def application(tiny_served: Snapshot, tmp_path: Path) -> AsyncIterator[Application]:
    """The tiny model's tokens are bytes, and 256 to 258 are special."""
    async with Application(tiny_served, tmp_path, {"REQUEST_TIMEOUT": "5"}) as application:
        yield application


async def post(client: httpx.AsyncClient, path: str, **body: object) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_text_becomes_tokens_and_a_text_again(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.address) as client:
        text = "Grüße, 世界! <|im_end|>"
        answer = await post(client, "/tokenize", model=MODEL, prompt=text, return_token_strs=True)
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
        assert answer["token_strs"][0] == "Gr"
        assert answer["max_model_len"] == 8192
        assert await post(client, "/detokenize", model=MODEL, tokens=answer["tokens"]) == {"prompt": text}


async def test_a_conversation_has_the_tokens_that_a_chat_counts(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.address) as client:
        answer = await post(client, "/tokenize", model=MODEL, **HI)
        assert answer["token_strs"] is None
        chat = await post(client, "/v1/chat/completions", model=MODEL, max_tokens=1, **HI)
        assert answer["count"] == chat["usage"]["prompt_tokens"]
        text = (await post(client, "/detokenize", tokens=answer["tokens"]))["prompt"]
        assert text.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
        closed = await post(client, "/tokenize", add_generation_prompt=False, **HI)
        prompt = (await post(client, "/detokenize", tokens=closed["tokens"]))["prompt"]
        assert text == prompt + "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]},
        {"messages": [*HI["messages"], {"role": "assistant", "content": "Hel"}], "continue_final_message": True},
    ],
)
async def test_a_conversation_is_the_one_that_a_chat_would_see(server: ServerProcess, fields: dict[str, Any]) -> None:
    async with httpx.AsyncClient(base_url=server.address) as client:
        asking = {"model": MODEL} | HI | fields
        chat = await post(client, "/v1/chat/completions", max_tokens=1, **asking)
        assert (await post(client, "/tokenize", **asking))["count"] == chat["usage"]["prompt_tokens"]
        unknown = await client.post("/tokenize", json=asking | {"chat_template_kwargs": {"made_up": 1}})
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "chat_template_kwargs.made_up")


@pytest.mark.parametrize("body", [{"prompt": "hi"}, HI])
async def test_the_model_may_be_left_out_and_special_tokens_chosen(
    application: Application, body: dict[str, Any]
) -> None:
    for chosen in (True, False):
        answer = await post(application.client, "/tokenize", add_special_tokens=chosen, **body)
        tokenizer = application.engine.model.tokenizer if application.engine.model else None
        assert tokenizer is not None
        text = "hi" if "prompt" in body else "hi\n"
        assert answer["tokens"] == tokenizer.encode(text, add_special_tokens=chosen)
        (record,) = application.records()
        assert (record.endpoint, record.model_name, record.prompt_tokens) == ("/tokenize", None, None)


async def test_no_text_has_no_tokens(application: Application) -> None:
    assert (await post(application.client, "/tokenize", prompt=""))["tokens"] == []
    assert await post(application.client, "/detokenize", tokens=[]) == {"prompt": ""}


async def test_a_text_may_be_longer_than_the_context(application: Application) -> None:
    answer = await post(application.client, "/tokenize", prompt="a" * 2000)
    assert (answer["count"], answer["max_model_len"]) == (2000, 1024)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", **HI}, 400, "prompt"),
        ("/tokenize", {"messages": []}, 400, "messages"),
        ("/tokenize", {"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": True}, 400, "add_generation_prompt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model"),
        ("/tokenize", [], 400, None),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": [0, -1]}, 400, "tokens[1]"),
        ("/detokenize", {"tokens": [0, 259]}, 400, "tokens[1]"),
        ("/detokenize", {"tokens": [2**40]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": [0], "model": "other"}, 404, "model"),
    ],
)
async def test_a_bad_request_names_its_field(
    application: Application, path: str, body: object, status: int, param: str | None
) -> None:
    response = await application.client.post(path, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    (record,) = application.records()
    assert (record.endpoint, record.http_status, record.error_message) == (path, status, error["message"])


async def test_a_piece_that_the_vocabulary_lacks_is_not_dropped(application: Application) -> None:
    """A model's vocabulary may be padded beyond its tokenizer's."""
    model = application.engine.model
    assert model is not None
    assert model.tokenizer.piece(model.info.vocab_size) is None
    assert model.tokenizer.piece(65) == "A"


async def test_waiting_for_the_model_ends_at_the_deadline(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, {"REQUEST_TIMEOUT": "0.1"}) as application:
        application.service._booted.clear()
        response = await application.client.post("/tokenize", json={"prompt": "a"})
        assert (response.status_code, response.json()["error"]["type"]) == (504, "timeout_error")
        application.service._booted.set()


async def test_no_more_are_read_at_once_than_may_wait_and_run(tiny_served: Snapshot, tmp_path: Path) -> None:
    limits = {"MAX_BATCH_SIZE": "2", "MAX_QUEUED_REQUESTS": "1"}
    large = {"prompt": "a " * LARGE_BODY_BYTES}
    async with Application(tiny_served, tmp_path, limits) as application:

        async def all_wait() -> bool | None:
            return application.service.admission._num_beside == 3 or None

        post = application.client.post
        application.service._booted.clear()
        waiting = [asyncio.create_task(post("/tokenize", json={"prompt": "a"})) for _ in range(3)]
        await until(all_wait, "three requests wait for the model")
        for path, body in (
            ("/tokenize", {"prompt": "a"}),
            ("/detokenize", {"tokens": [65]}),
            ("/v1/completions", large),
            ("/invocations", {"nothing": large["prompt"]}),  # of which only who decodes it can say that it is bad
        ):
            refused = await post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded"), refused.text
            assert int(refused.headers["retry-after"]) >= 1
        application.service._booted.set()
        assert {(await task).status_code for task in waiting} == {200}
        tokens = (await post("/tokenize", json=large)).json()
        assert tokens["count"] == 2 * LARGE_BODY_BYTES
        too_long = (await post("/invocations", json={"instances": [large | {"model": "llama"}]})).json()
        assert too_long["error"]["param"] == "prompt"


async def test_a_function_that_stops_reads_nothing_more(application: Application) -> None:
    application.service.admission.is_stopping = True
    response = await application.client.post("/tokenize", json={"prompt": "a"})
    assert response.status_code == 503
    assert "retry-after" in response.headers
