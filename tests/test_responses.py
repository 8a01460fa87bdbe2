"""The Responses API of the real server, as the real client sees it, on the embedded model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from openai.types.responses import Response, ResponseOutputMessage, ResponseOutputText, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from handler.engine.snapshot import Snapshot
from handler.requestlog.record import Status
from tests.asgi import Application, Exchange
from tests.server import DEADLINE_S, ServerProcess

MODEL = "smollm2-135m"
PARIS = "What is the capital of France?"
EVENT = TypeAdapter[ResponseStreamEvent](ResponseStreamEvent)
EXTRA_FIELDS = {
    "store",  # OpenAI sends it, its client's type has forgotten it
    "error",  # of the error event: nested as OpenAI's servers do, beside the flat members of its reference
    "bytes",  # of a delta's log probabilities, as the done part has them
    "name",  # of response.function_call_arguments.done, as OpenAI's reference has it
}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def asking(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": PARIS, "temperature": 0} | fields


def post(server: ServerProcess, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.address}/v1/responses", json=asking(**fields), timeout=DEADLINE_S)


def events_of(body: str) -> list[dict[str, Any]]:
    """The events of a stream, every frame and type as OpenAI's client knows it and every number in its place."""
    *frames, rest = body.split("\n\n")
    assert rest == ""
    events = []
    for number, frame in enumerate(frames):
        match = re.fullmatch(r"event: (\S+)\ndata: (\{.*\})", frame)
        assert match is not None, frame
        event = orjson.loads(match[2])
        assert (event["type"], event["sequence_number"]) == (match[1], number)
        assert_known(EVENT.validate_python(event, strict=True))
        events.append(event)
    return events


def assert_known(value: object) -> None:
    """No member that the client's types do not declare, at any depth."""
    if isinstance(value, list):
        for item in value:
            assert_known(item)
    elif isinstance(value, BaseModel):
        assert set(value.model_extra or ()) <= EXTRA_FIELDS, value
        for name in type(value).model_fields:
            assert_known(getattr(value, name))


def text_of(response: Response) -> ResponseOutputText:
    (message,) = response.output
    assert isinstance(message, ResponseOutputMessage)
    (part,) = message.content
    assert isinstance(part, ResponseOutputText)
    return part


def test_a_whole_response_is_complete(server: ServerProcess) -> None:
    answer = post(server, metadata={"team": "a"})
    raw = answer.json()
    request_id = answer.headers["x-request-id"]
    response = TypeAdapter(Response).validate_python(raw, strict=True)
    assert_known(response)
    assert "Paris" in response.output_text
    (message,) = raw.pop("output")
    assert message == {
        "type": "message",
        "id": f"msg_{request_id}_0",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": response.output_text, "annotations": [], "logprobs": []}],
    }
    assert 0 < raw["created_at"] <= raw["completed_at"]
    assert raw["usage"]["total_tokens"] == raw["usage"]["input_tokens"] + raw["usage"]["output_tokens"]
    varying = {"created_at": raw["created_at"], "completed_at": raw["completed_at"], "usage": raw["usage"]}
    assert raw == varying | {
        "id": f"resp_{request_id}",
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": MODEL,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 0.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
        "metadata": {"team": "a"},
    }


def test_what_was_asked_for_is_repeated_and_null_is_as_good_as_nothing(server: ServerProcess) -> None:
    echoed = {
        "instructions": "Answer in French.",
        "max_output_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "prompt_cache_key": "key",
        "prompt_cache_retention": "in_memory",
        "safety_identifier": "user-1",
        "user": "user-2",
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "truncation": "disabled",
        "store": False,
        "background": False,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "reasoning": {"effort": "none", "summary": None},
        "top_logprobs": 2,
    }
    accepted = {"include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "service_tier": "auto"}
    raw = post(server, **echoed, **accepted).json()
    assert {name: raw[name] for name in echoed} == echoed
    nulls = dict.fromkeys(
        [
            *echoed, *accepted, "previous_response_id", "conversation", "prompt", "context_management",
            "max_tool_calls", "moderation", "tools", "stream", "stream_options", "top_k", "seed",
        ]
    )  # fmt: skip
    assert post(server, **nulls | {"max_output_tokens": 1, "tools": [], "reasoning": {}}).status_code == 200


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": PARIS},
        {"type": "message", "role": "user", "content": PARIS},
        {"role": "user", "content": [{"type": "input_text", "text": "What is the capital"},
                                     {"type": "input_text", "text": " of France?"}]},
        {"type": "message", "role": "user", "status": "completed", "id": "msg_1",
         "content": [{"type": "input_text", "text": PARIS}]},
    ],
)  # fmt: skip
def test_every_spelling_of_a_message_is_the_same_prompt(client: openai.OpenAI, item: Any) -> None:
    plain = client.responses.create(**asking())
    listed = client.responses.create(**asking(input=[item]))
    assert listed.output_text == plain.output_text
    assert listed.usage is not None
    assert plain.usage is not None
    assert listed.usage.input_tokens == plain.usage.input_tokens


def test_instructions_are_a_system_message(client: openai.OpenAI) -> None:
    said = "You are a pirate."
    counts = set()
    for fields in (
        {"instructions": said, "input": PARIS},
        {"input": [{"role": "developer", "content": said}, {"role": "user", "content": PARIS}]},
        {"input": [{"role": "system", "content": said}, {"role": "user", "content": PARIS}]},
    ):
        response = client.responses.create(**asking(**fields, max_output_tokens=4))
        assert response.usage is not None
        counts.add((response.usage.input_tokens, response.output_text))
    assert len(counts) == 1


def test_an_answer_is_sent_back_as_it_came(client: openai.OpenAI) -> None:
    """The stateless conversation of OpenAI's guide: output items become input items."""
    first = client.responses.create(**asking(include=["message.output_text.logprobs"]))
    again: list[Any] = [{"role": "user", "content": PARIS}]
    again += [item.model_dump(exclude_unset=True) for item in first.output]
    again.append({"role": "user", "content": "And of Italy?"})
    second = client.responses.create(**asking(input=again))
    assert "Rome" in second.output_text
    as_chat = client.chat.completions.create(
        model=MODEL,
        temperature=0,
        messages=[
            {"role": "user", "content": PARIS},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And of Italy?"},
        ],
    )
    assert as_chat.choices[0].message.content == second.output_text


def test_a_response_that_reaches_its_limit_is_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(**asking(max_output_tokens=3))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert isinstance(response.output[0], ResponseOutputMessage)
    assert response.output[0].status == "incomplete"
    assert response.usage is not None
    assert response.usage.output_tokens == 3
    assert response.completed_at is None


def test_log_probabilities_come_where_they_are_included(client: openai.OpenAI) -> None:
    response = client.responses.create(
        **asking(max_output_tokens=4, include=["message.output_text.logprobs"], top_logprobs=2)
    )
    part = text_of(response)
    assert part.logprobs is not None
    assert "".join(entry.token for entry in part.logprobs) == part.text
    assert all(bytes(entry.bytes).decode() == entry.token for entry in part.logprobs)
    assert [len(entry.top_logprobs) for entry in part.logprobs] == [2] * 4
    assert all(entry.top_logprobs[0].token == entry.token for entry in part.logprobs)


def test_sampling_extensions_work(client: openai.OpenAI) -> None:
    def text(**extra: Any) -> str:
        return client.responses.create(**asking(temperature=1.5, max_output_tokens=6, extra_body=extra)).output_text

    assert text(seed=7) == text(seed=7)
    assert text(seed=7) != text(seed=8)
    assert text(top_k=1) == client.responses.create(**asking(max_output_tokens=6)).output_text
    assert "Paris" not in text(top_k=1, stop=[" Paris"])
    assert text(guided_choice=["Rome", "Oslo"]) in {"Rome", "Oslo"}


def test_the_helpers_of_the_client_agree_with_the_whole_answer(client: openai.OpenAI, server: ServerProcess) -> None:
    whole = client.responses.create(**asking())
    with client.responses.stream(**asking()) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == whole.output_text
    assert final.status == "completed"
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.output_tokens == whole.usage.output_tokens

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as patient:
            stream = await patient.responses.create(**asking(), stream=True)
            return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    assert asyncio.run(ask()) == whole.output_text


@pytest.mark.parametrize(("limit", "ending"), [(None, "completed"), (3, "incomplete")])
def test_the_events_of_a_text(server: ServerProcess, limit: int | None, ending: str) -> None:
    answer = post(server, stream=True, max_output_tokens=limit, include=["message.output_text.logprobs"])
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = events_of(answer.text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) == limit or len(deltas) > 5
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * len(deltas),
        "output_text.done", "content_part.done", "output_item.done", ending,
    ]  # fmt: skip
    created, in_progress, added, part_added, *_, text_done, part_done, item_done, ended = events
    assert created["response"] == in_progress["response"]
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert (created["response"]["usage"], created["response"]["completed_at"]) == (None, None)
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])
    assert part_added["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    text = "".join(event["delta"] for event in deltas)
    assert text_done["text"] == part_done["part"]["text"] == text
    assert all(event["delta"] for event in deltas)
    logprobs = text_done["logprobs"]
    # The end token has no text, so no delta brings it.
    with_text = [entry for entry in logprobs if entry["token"] != "<|im_end|>"]
    assert [entry for event in deltas for entry in event["logprobs"]] == with_text
    assert "".join(entry["token"] for entry in with_text) == text
    assert item_done["item"] == added["item"] | {"status": ending, "content": [part_done["part"]]}
    assert ended["response"]["output"] == [item_done["item"]]
    assert ended["response"]["status"] == ending
    assert {event["item_id"] for event in events if "item_id" in event} == {added["item"]["id"]}
    assert {event["output_index"] for event in events if "output_index" in event} == {0}


BUILT_IN = "only functions that the client runs can be called"


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"store": True}, "store", "Nothing is stored"),
        ({"background": True}, "background", "Nothing is stored"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "Nothing is stored here"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "Nothing is stored here"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "No prompts are stored here"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "never compacted"),
        ({"max_tool_calls": 3}, "max_tool_calls", "no built-in tools"),
        ({"moderation": {"model": "m"}}, "moderation", "Nothing is moderated"),
        ({"prompt_cache_options": {"mode": "explicit"}}, "prompt_cache_options", "for no stated time"),
        ({"prompt_cache_retention": "24h"}, "prompt_cache_retention", "as memory allows"),
        ({"extra_body": {"guided_choice": ["a"], "structured_outputs": {"regex": "b"}}},
         "structured_outputs.regex", "cannot be combined"),
        ({"extra_body": {"guided_choice": ["a"]}, "text": {"format": {"type": "json_object"}}},
         "guided_choice", "cannot be combined"),
        ({"extra_body": {"guided_choice": ["a"], "min_tokens": 3}}, "min_tokens", "cannot be combined"),
        ({"extra_body": {"image": {}}}, "image", "text only"),
        ({"extra_body": {"access_programs": {}}}, "access_programs", "no access programs"),
        ({"truncation": "auto"}, "truncation", "read whole or refused"),
        ({"service_tier": "flex"}, "service_tier", "one tier"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "does not reason"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "does not reason"),
        ({"include": ["web_search_call.results"]}, "include[0]", "web_search_call.results"),
        ({"top_logprobs": 2}, "top_logprobs", "in include"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "low"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", BUILT_IN),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type", BUILT_IN),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type", BUILT_IN),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input[0].type", "does not reason"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "nothing is stored here"),
        ({"input": [{"id": "msg_1"}]}, "input[0].type", "nothing is stored here"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type", BUILT_IN),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type", "text only"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
         "input[0].content[0].type", "text only"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]}]},
         "input[1].output[0].type", "text only"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
         "input[0].call_id", "no call 'c'"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
         "input[0].call_id", "has no output"),
        ({"input": []}, "input", "length"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "tool"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "str"),
        ({"input": [{"role": "user", "content": "x", "made_up": 1}]}, "input[0].made_up", "unknown field"),
        ({"extra_body": {"made_up": 1}}, "made_up", "unknown field"),
        ({"extra_body": {"max_tokens": 1}}, "max_tokens", "unknown field"),
        ({"extra_body": {"n": 1}}, "n", "unknown field"),
        ({"max_output_tokens": 0}, "max_output_tokens", ">= 1"),
        ({"max_output_tokens": 10_000}, "max_output_tokens", "exceed the model's context"),
        ({"input": "x " * 9000}, "input", "tokens"),
        ({"temperature": 3}, "temperature", "<= 2"),
        ({"stream": True, "extra_body": {"stream_options": {"include_obfuscation": True}}},
         "stream_options.include_obfuscation", "not padded"),
        ({"extra_body": {"stream_options": {"include_obfuscation": False}}}, "stream_options", "needs stream"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name_with_the_reason(
    client: openai.OpenAI, fields: dict[str, Any], param: str, reason: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asking(**fields))
    assert caught.value.param == param
    assert isinstance(caught.value.body, dict)
    assert reason in caught.value.body["message"]


def test_an_error_before_the_first_token_is_a_status_of_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(**asking(model="gpt-4", stream=True))
    assert caught.value.code == "model_not_found"


def test_nothing_is_stored_and_that_is_said(client: openai.OpenAI) -> None:
    response = client.responses.create(**asking(max_output_tokens=1))
    for ask in (
        client.responses.retrieve,
        client.responses.delete,
        client.responses.cancel,
        client.responses.input_items.list,
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(response.id)
        assert caught.value.code == "not_found"
        assert "not stored here" in str(caught.value)


SLOW = {"TORCH_DTYPE": "float32", "REQUEST_TIMEOUT": "0.3"}
"""In int8 the tiny model is through before the time is."""


async def test_a_stream_that_takes_too_long_fails_as_the_client_knows_it(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, SLOW) as application:
        body = asking(model=tiny_served.name, stream=True)
        exchange = Exchange(application, "/v1/responses", body | {"ignore_eos": True})
        await exchange.done()
        assert exchange.is_complete
        *_, error, failed = events_of(exchange.body.decode())
        assert (error["type"], error["code"], error["error"]["type"]) == ("error", "server_error", "timeout_error")
        assert failed["type"] == "response.failed"
        assert failed["response"]["error"] == {"code": "server_error", "message": error["message"]}
        (record,) = application.records()
        assert (record.status, record.error_type) == (Status.TIMEOUT, "DeadlineExceededError")

        async with openai.AsyncOpenAI(
            base_url="http://test/v1", api_key="none", http_client=application.client
        ) as client:
            with pytest.raises(openai.APIError, match="took longer"):
                async for _ in await client.responses.create(**body, extra_body={"ignore_eos": True}):
                    pass


@pytest.mark.parametrize("path", ["/v1/responses", "/invocations"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_response_becomes_a_row(path: str, stream: bool, tiny_served: Snapshot, tmp_path: Path) -> None:
    body = asking(
        model=tiny_served.name, instructions="Be short.", max_output_tokens=3, stream=stream, metadata={"team": "a"},
        input=[{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
    )  # fmt: skip
    async with Application(tiny_served, tmp_path, {"LOG_PROMPTS": "1"}) as application:
        answer = await application.client.post(path, json=body)
        (record,) = application.records()
    assert (record.endpoint, record.status, record.http_status) == (path, Status.SUCCESS, 200)
    assert (record.stream, record.finish_reason, record.completion_tokens) == (stream, "length", 3)
    assert record.metadata == {"team": "a"}
    assert f"resp_{record.request_id}" in answer.text
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
    assert record.prompt == {"instructions": "Be short.", "input": [message]}
    text = events_of(answer.text)[-1]["response"] if stream else answer.json()
    assert record.completion == text["output"][0]["content"][0]["text"]
