"""response_format and the guided fields through the real client, the real server and the embedded model."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessageParam

from handler.engine.snapshot import Snapshot
from tests.asgi import Application
from tests.server import ServerProcess

MODEL = "smollm2-135m"
PET: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Describe a pet."}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def schema_format(schema: Any, **fields: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "pet", "schema": schema, **fields}}


def say(client: openai.OpenAI, **fields: Any) -> str:
    """What the model says in one complete answer."""
    (choice,) = client.chat.completions.create(
        **({"model": MODEL, "messages": PET, "seed": 7, "max_tokens": 200} | fields)
    ).choices
    assert choice.finish_reason == "stop"
    assert choice.message.content is not None
    return choice.message.content


@pytest.mark.parametrize("extra", [{}, {"strict": True}, {"strict": False}, {"strict": None, "description": "A pet."}])
def test_json_schema_is_kept_whatever_strict_says(extra: dict[str, Any], client: openai.OpenAI) -> None:
    text = say(client, response_format=schema_format(SCHEMA, **extra))
    jsonschema.validate(json.loads(text), SCHEMA)
    assert text == json.dumps(json.loads(text), ensure_ascii=False), "separators are those of json.dumps"


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    fields: Any = {"response_format": schema_format(SCHEMA)}
    whole = say(client, **fields)
    chunks = client.chat.completions.create(model=MODEL, messages=PET, seed=7, max_tokens=200, stream=True, **fields)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole
    assert len(pieces) > 3


def test_choices_of_one_request_each_keep_the_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=PET, n=3, seed=1, max_tokens=200, response_format=schema_format(SCHEMA)
    )
    for choice in answer.choices:
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)


class Pet(pydantic.BaseModel):
    kind: Literal["cat", "dog"]
    age: int = pydantic.Field(ge=0, le=30)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's own, of what it parsed
def test_a_parsed_answer_is_taken_back_as_it_came(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(model=MODEL, messages=PET, temperature=0, response_format=Pet)
    message = parsed.choices[0].message
    assert isinstance(message.parsed, Pet)
    for echo in (message, message.model_dump()):
        messages: Any = [*PET, echo, *PET]
        assert say(client, messages=messages, extra_body={"guided_choice": ["yes"]}) == "yes"


def test_text_is_no_constraint(client: openai.OpenAI) -> None:
    assert say(client, temperature=0, response_format={"type": "text"}) == say(client, temperature=0)


def test_json_object_is_an_object(client: openai.OpenAI) -> None:
    for seed in range(20):  # the model decides how long it is
        answer = client.chat.completions.create(
            model=MODEL, messages=PET, seed=seed, max_tokens=200, response_format={"type": "json_object"}
        )
        text = answer.choices[0].message.content or ""
        assert text.startswith("{")
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(text), dict)
            return
    raise AssertionError("no object was ever complete")


GUIDED: list[tuple[dict[str, Any], str]] = [
    ({"guided_regex": "[a-z]{3,8}@example[.]com"}, "[a-z]{3,8}@example[.]com"),
    ({"guided_choice": ["a cat", "a dog"]}, "a cat|a dog"),
    ({"guided_grammar": 'root ::= "yes" | "no" " never"{2}'}, "yes|no never never"),
    ({"guided_grammar": 'start: "yes" | "no"'}, "yes|no"),
    ({"guided_json": SCHEMA}, r"\{.*\}"),
    ({"guided_json": json.dumps(SCHEMA)}, r"\{.*\}"),
    ({"structured_outputs": {"regex": "[0-9]{4}"}}, "[0-9]{4}"),
    ({"structured_outputs": {"choice": ["x", "y"]}}, "x|y"),
    ({"structured_outputs": {"json": SCHEMA}}, r"\{.*\}"),
    ({"structured_outputs": {"grammar": 'start: "a" "b"'}}, "ab"),
]


@pytest.mark.parametrize(("extra", "pattern"), GUIDED)
def test_guided_fields_of_chat_and_completions(extra: dict[str, Any], pattern: str, client: openai.OpenAI) -> None:
    chat = say(client, extra_body=extra)
    (choice,) = client.completions.create(
        model=MODEL, prompt="A pet: ", seed=7, max_tokens=200, extra_body=extra
    ).choices
    assert choice.finish_reason == "stop"
    for text in (chat, choice.text):
        assert re.fullmatch(pattern, text), text
        if pattern.startswith(r"\{"):
            jsonschema.validate(json.loads(text), SCHEMA)


SCHEMA_PARAM = "response_format.json_schema.schema"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": schema_format({"type": "pet"})}, SCHEMA_PARAM, "pet"),
    ({"response_format": schema_format({"not": {}})}, SCHEMA_PARAM, "not"),
    ({"response_format": schema_format({"type": "integer", "multipleOf": 1_000_003})}, SCHEMA_PARAM, "more than 3 s"),
    ({"response_format": schema_format([1])}, SCHEMA_PARAM, "object"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "pet"}}}, SCHEMA_PARAM, "missing"),
    ({"response_format": schema_format(SCHEMA, name="a pet")}, "response_format.json_schema.name", ""),
    ({"response_format": {"type": "yaml"}}, "response_format.type", "yaml"),
    ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema", "schema"),
    ({"guided_json": "{"}, "guided_json", "EOF"),
    ({"guided_regex": "(a"}, "guided_regex", "unclosed"),
    ({"guided_grammar": "start: missing"}, "guided_grammar", "missing"),
    ({"guided_choice": []}, "guided_choice", ""),
    ({"guided_choice": [1]}, "guided_choice[0]", ""),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "guided_regex"),
    ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex", "response_format"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice", "structured_outputs.regex"),
    ({"structured_outputs": {}}, "structured_outputs", ""),
    (
        {"structured_outputs": {"whitespace_pattern": " "}},
        "structured_outputs.whitespace_pattern",
        "whitespace_pattern",
    ),
    ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "guided_regex"),
    ({"guided_regex": "a", "min_tokens": 2}, "min_tokens", "guided_regex"),
]


@pytest.mark.parametrize(("extra", "param", "reason"), REFUSED)
def test_what_cannot_work_is_refused_by_name(
    extra: dict[str, Any], param: str, reason: str, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=PET, max_tokens=20, extra_body=extra)
    assert caught.value.param == param, caught.value
    assert reason in caught.value.message


async def test_compiling_does_not_keep_the_event_loop(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path) as application:
        model = application.engine.model
        assert model is not None
        compile_in_pool, threads = model.grammars.compile, []

        def compile_here(*args: Any) -> Any:
            threads.append(threading.current_thread())
            return compile_in_pool(*args)

        model.grammars.compile = compile_here  # type: ignore[method-assign]
        answer = await application.client.post(
            "/v1/completions",
            json={"model": tiny_served.name, "prompt": "a", "guided_choice": ["yes"], "max_tokens": 9},
        )
        assert answer.json()["choices"][0]["text"] == "yes"
        assert threads
        assert threading.current_thread() not in threads
