"""Functions and structured text through the Responses API: the real client, the real server, the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import openai
import orjson
import pytest
from openai.types.responses import ParsedResponseFunctionToolCall, ResponseFunctionToolCall
from pydantic import BaseModel, Field

from tests.server import ServerProcess
from tests.test_responses import asking, events_of, post


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=20)
    unit: Literal["celsius", "fahrenheit"]


class GetTime(BaseModel):
    """The time in a city."""

    city: str = Field(max_length=20)


WEATHER: Any = openai.pydantic_function_tool(GetWeather)["function"] | {"type": "function"}
TIME: Any = openai.pydantic_function_tool(GetTime)["function"] | {"type": "function"}
QUESTION = "What is the weather in Oslo?"


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def only_call(items: Any) -> ResponseFunctionToolCall:
    (item,) = items
    assert isinstance(item, ResponseFunctionToolCall)
    return item


def calling(**fields: Any) -> dict[str, Any]:
    return asking(input=QUESTION, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False) | fields


def test_a_call_and_its_output_make_a_round_trip(client: openai.OpenAI) -> None:
    first = client.responses.create(**calling())
    call = only_call(first.output)
    assert (call.name, call.status) == ("GetWeather", "completed")
    assert "Oslo" in GetWeather.model_validate_json(call.arguments).city
    assert call.id is not None
    assert call.id.startswith("fc_")
    assert call.call_id.startswith("call_")
    assert first.output_text == ""
    history: list[Any] = [{"role": "user", "content": QUESTION}]
    history += first.output
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "Snow, minus 7 degrees."})
    second = client.responses.create(**calling(input=history, tool_choice="none", max_output_tokens=40))
    assert second.output_text
    assert second.usage is not None
    without = client.responses.create(**calling(tool_choice="none", max_output_tokens=1))
    assert without.usage is not None
    # The call and what it returned are part of the prompt.
    assert second.usage.input_tokens > without.usage.input_tokens + 20


def test_the_stream_of_a_call(server: ServerProcess) -> None:
    events = events_of(post(server, **calling(stream=True)).text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert kinds == [
        "created", "in_progress", "output_item.added", *["function_call_arguments.delta"] * len(deltas),
        "function_call_arguments.done", "output_item.done", "completed",
    ]  # fmt: skip
    added, *_, arguments_done, item_done, ended = events[2:]
    assert (added["item"]["arguments"], added["item"]["status"]) == ("", "in_progress")
    assert len(deltas) > 1
    assert "".join(deltas) == arguments_done["arguments"] == item_done["item"]["arguments"]
    GetWeather.model_validate_json("".join(deltas))
    assert ended["response"]["output"] == [item_done["item"]]
    assert ended["response"]["tools"] == [WEATHER]
    assert ended["response"]["tool_choice"] == "required"


def test_the_helpers_parse_arguments(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(GetWeather)
    fields = calling()
    del fields["tools"]
    with client.responses.stream(**fields, tools=[tool]) as stream:
        final = stream.get_final_response()
    call = only_call(final.output)
    assert isinstance(call, ParsedResponseFunctionToolCall)
    assert isinstance(call.parsed_arguments, GetWeather)


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "GetTime"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "GetTime"}]},
    ],
)
def test_the_tool_that_is_asked_for_is_called(client: openai.OpenAI, choice: Any) -> None:
    response = client.responses.create(**calling(tools=[WEATHER, TIME], tool_choice=choice))
    assert only_call(response.output).name == "GetTime"
    assert response.tool_choice is not None
    assert not isinstance(response.tool_choice, str)
    assert response.tool_choice.model_dump() == choice


def test_tools_that_must_not_be_called_are_not(client: openai.OpenAI) -> None:
    response = client.responses.create(**calling(tool_choice="none", max_output_tokens=8))
    assert [item.type for item in response.output] == ["message"]
    assert len(response.tools) == 1


def test_a_call_that_reaches_the_limit_is_incomplete(client: openai.OpenAI) -> None:
    whole = client.responses.create(**calling())
    assert whole.usage is not None
    cut = client.responses.create(**calling(max_output_tokens=whole.usage.output_tokens - 8))
    assert cut.status == "incomplete"
    call = only_call(cut.output)
    assert call.status == "incomplete"
    assert only_call(whole.output).arguments.startswith(call.arguments)


class City(BaseModel):
    name: str = Field(max_length=12)
    is_capital: bool


def test_text_that_obeys_a_schema_is_parsed(client: openai.OpenAI) -> None:
    asked = asking(input="Oslo")
    response = client.responses.parse(**asked, text_format=City)
    assert isinstance(response.output_parsed, City)
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"
    with client.responses.stream(**asked, text_format=City) as stream:
        assert stream.get_final_response().output_parsed == response.output_parsed


def test_text_that_is_an_object_is_one(client: openai.OpenAI) -> None:
    text: Any = {"format": {"type": "json_object"}}
    response = client.responses.create(**asking(input="Oslo as JSON", text=text, max_output_tokens=60))
    assert response.output_text.startswith("{")
    if response.status == "completed":
        assert isinstance(orjson.loads(response.output_text), dict)


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"format": {"type": "json_schema", "name": "x", "schema": schema}}


@pytest.mark.parametrize("extra", [{}, {"strict": False}, {"strict": True, "description": "A city."}])
def test_a_schema_is_enforced_whatever_strict_says(client: openai.OpenAI, extra: dict[str, Any]) -> None:
    text: Any = schema_format(City.model_json_schema() | {"additionalProperties": False})
    text["format"] |= extra
    response = client.responses.create(**asking(input="Oslo", text=text, temperature=1.5))
    City.model_validate_json(response.output_text)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": schema_format({"type": "nonsense"})}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format.name"),
        ({"tools": [TIME | {"parameters": {"type": "nonsense"}}]}, "tools[0].parameters"),
    ],
)
def test_schemas_that_cannot_be_obeyed_are_refused(client: openai.OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asking(**fields))
    assert caught.value.param == param
