"""Tools with the client that users bring, against the real server and the embedded model, whose template knows none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from handler.engine.snapshot import Snapshot
from handler.engine.tokenizer import Tokenizer
from tests.server import ServerProcess

MODEL = "smollm2-135m"
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]


class GetWeather(pydantic.BaseModel):
    """The weather of a city."""

    city: str = pydantic.Field(max_length=24)
    unit: Literal["c", "f"]
    days: int = pydantic.Field(ge=1, le=9)


WEATHER = openai.pydantic_function_tool(GetWeather, name="get_weather")
LOOSE: Any = {"type": "function", "function": {**WEATHER["function"], "strict": False}}
NOW: Any = {"type": "function", "function": {"name": "now", "description": "The time."}}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    options: dict[str, Any] = {"messages": ASKED, "tools": [LOOSE, NOW], "temperature": 0, "max_tokens": 200}
    return client.chat.completions.create(model=MODEL, **(options | fields))


def check(call: Any) -> None:
    """A call that can be answered."""
    assert call.type == "function"
    assert call.id.startswith("call_")
    if call.function.name == "now":
        assert call.function.arguments == "{}"
    else:
        assert call.function.name == "get_weather"
        GetWeather.model_validate_json(call.function.arguments)


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_named_function_is_called_once(client: openai.OpenAI, temperature: float) -> None:
    answer = ask(client, tool_choice=NAMED, temperature=temperature, seed=1)
    (choice,) = answer.choices
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    check(call)
    assert choice.finish_reason == "stop"


def test_a_required_call_is_made(client: openai.OpenAI) -> None:
    (choice,) = ask(client, tool_choice="required", parallel_tool_calls=False).choices
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    check(call)
    assert choice.finish_reason == "tool_calls"


def test_each_of_several_choices_has_its_calls(client: openai.OpenAI) -> None:
    answer = ask(client, tool_choice=NAMED, n=3, temperature=1, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        (call,) = choice.message.tool_calls
        check(call)


def test_a_model_that_may_call_may_also_talk(client: openai.OpenAI) -> None:
    (choice,) = ask(client, max_tokens=8).choices
    assert choice.message.content
    assert choice.message.tool_calls is None
    assert choice.finish_reason in {"stop", "length"}


def test_tools_that_may_not_be_called_leave_the_prompt_alone(client: openai.OpenAI) -> None:
    without = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, max_tokens=8)
    unshown = ask(client, tool_choice="none", max_tokens=8)
    assert unshown.usage.prompt_tokens == without.usage.prompt_tokens
    assert unshown.choices[0].message == without.choices[0].message


def test_a_call_that_the_model_makes_of_its_own_is_read(client: openai.OpenAI, embedded_snapshot: Snapshot) -> None:
    """A regular expression and a push at the first word stand in for a model that is good at tools."""
    regex = r'Well\. <tool_call>\n\{"name": "now", "arguments": \{"zone": "UTC"\}\}\n</tool_call>'
    (well,) = Tokenizer(embedded_snapshot.directory).encode("Well", add_special_tokens=False)
    (choice,) = ask(client, logit_bias={str(well): 100}, extra_body={"guided_regex": regex}).choices
    assert choice.message.content == "Well."
    (call,) = choice.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("now", '{"zone": "UTC"}')
    assert choice.finish_reason == "tool_calls"


def test_a_call_that_is_cut_off_says_so(client: openai.OpenAI) -> None:
    (choice,) = ask(client, tool_choice=NAMED, max_tokens=26).choices
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    with pytest.raises(json.JSONDecodeError):
        json.loads(call.function.arguments)
    assert choice.finish_reason == "length"


def test_a_stop_string_within_arguments_cuts_them_off(client: openai.OpenAI) -> None:
    (choice,) = ask(client, tool_choice=NAMED, stop=['"unit"']).choices
    (call,) = choice.message.tool_calls
    assert call.function.arguments.startswith('{"city": ')
    assert "unit" not in call.function.arguments
    assert choice.finish_reason == "stop"
    assert choice.stop_reason == '"unit"'


def collect(chunks: list[ChatCompletionChunk]) -> tuple[str, list[dict[str, Any]], list[str | None]]:
    """Content, calls and finish reasons of one choice's chunks, which have to be of OpenAI's shape."""
    content, calls, reasons = "", [], []
    opening, *rest = chunks
    assert opening.choices[0].delta.role == "assistant"
    for chunk in rest:
        (choice,) = chunk.choices
        delta = choice.delta
        assert delta.role is None
        content += delta.content or ""
        if choice.finish_reason is None:
            assert delta.content or delta.tool_calls
        else:
            reasons.append(choice.finish_reason)
        for part in delta.tool_calls or []:
            assert part.function is not None
            if part.index == len(calls):
                assert part.type == "function"
                assert part.function.arguments == ""
                calls.append({"id": part.id, "name": part.function.name, "arguments": "", "pieces": 0})
            else:
                assert part.index == len(calls) - 1
                assert (part.id, part.type, part.function.name) == (None, None, None)
                assert part.function.arguments
                calls[-1]["arguments"] += part.function.arguments
                calls[-1]["pieces"] += 1
    return content, calls, reasons


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_stream_adds_up_to_the_whole(client: openai.OpenAI, choice: Any) -> None:
    fields = {"tool_choice": choice, "tools": [LOOSE], "parallel_tool_calls": False}
    (whole,) = ask(client, **fields).choices
    content, calls, reasons = collect(list(ask(client, stream=True, **fields)))
    assert content == ""
    (call,) = calls
    assert (call["name"], call["arguments"]) == ("get_weather", whole.message.tool_calls[0].function.arguments)
    assert call["pieces"] > 5
    assert reasons == [whole.finish_reason]


def test_several_calls_stream_one_after_the_other(client: openai.OpenAI) -> None:
    _, calls, reasons = collect(list(ask(client, stream=True, tool_choice="required", tools=[NOW], max_tokens=600)))
    assert len(calls) > 1
    assert len({call["id"] for call in calls}) == len(calls)
    assert {call["arguments"] for call in calls} == {"{}"}
    assert reasons == ["tool_calls"]


def test_text_streams_where_calls_may_come(client: openai.OpenAI) -> None:
    (whole,) = ask(client, max_tokens=24).choices
    content, calls, _ = collect(list(ask(client, stream=True, max_tokens=24)))
    assert (content, calls) == (whole.message.content, [])


def test_the_clients_own_accumulator_takes_the_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ASKED, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=200
    ) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert message.tool_calls is not None
    assert isinstance(message.tool_calls[0].function.parsed_arguments, GetWeather)


def test_strict_tools_are_parsed_and_their_message_is_taken_back(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model=MODEL, messages=ASKED, tools=[WEATHER], tool_choice=NAMED, temperature=0, max_tokens=200
    )
    message = parsed.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees, sunny"}
    for echo in (message, message.model_dump(), message.model_dump(exclude_none=True)):
        messages: Any = [*ASKED, echo, result]
        (answer,) = ask(client, messages=messages, tools=[WEATHER], max_tokens=12).choices
        assert answer.message.content
        assert answer.finish_reason in {"stop", "length"}


def test_a_strict_tool_is_obeyed_or_left_alone(client: openai.OpenAI) -> None:
    for choice in ask(client, tools=[WEATHER], temperature=1.5, seed=1, n=3, max_tokens=40).choices:
        for call in choice.message.tool_calls or []:
            assert call.function.name == "get_weather"
            assert choice.finish_reason == "length" or GetWeather.model_validate_json(call.function.arguments)


def test_an_answer_with_a_form_has_it_where_it_is_no_call(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"response_format": {"type": "json_object"}, "max_tokens": 60}
    (choice,) = ask(client, **fields).choices
    assert choice.message.tool_calls or choice.finish_reason == "length" or json.loads(choice.message.content)
    (forced,) = ask(client, tool_choice=NAMED, **fields).choices
    check(forced.message.tool_calls[0])


def test_log_probabilities_are_those_of_all_tokens(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"tool_choice": NAMED, "logprobs": True}
    whole = ask(client, **fields)
    entries = whole.choices[0].logprobs.content
    assert len(entries) == whole.usage.completion_tokens
    text = "".join(entry.token for entry in entries)
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "' in text
    chunks = ask(client, stream=True, **fields)
    streamed = [entry for chunk in chunks for entry in (chunk.choices[0].logprobs or EMPTY).content]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]


class _Empty:
    content: tuple[()] = ()


EMPTY = _Empty()


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        (
            {"tools": [NOW, {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[1].function.parameters",
            'type must be "object"',
        ),
        (
            {
                "tools": [
                    NOW,
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"properties": {"a": {"pattern": "(?=x)"}}}},
                    },
                ]
            },
            "tools[1].function.parameters",
            "cannot be compiled",
        ),
        ({"min_tokens": 5}, "min_tokens", "tool_choice"),
        ({"ignore_eos": True}, "ignore_eos", "tool_choice"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs.enable_thinking", "no variable"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "field of the request"),
        ({"continue_final_message": True}, "messages", "assistant"),
    ],
)
def test_what_cannot_be_kept_is_refused(client: openai.OpenAI, fields: dict[str, Any], param: str, reason: str) -> None:
    tools = fields.get("tools", [NOW])
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, tools=tools, tool_choice="required", extra_body={**fields, "tools": tools})
    assert caught.value.param == param
    assert reason in str(caught.value)


def test_a_message_is_continued(client: openai.OpenAI) -> None:
    begun: Any = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is"},
    ]
    extra = {"continue_final_message": True}
    answer = client.chat.completions.create(model=MODEL, messages=begun, temperature=0, max_tokens=3, extra_body=extra)
    assert (answer.choices[0].message.content or "").startswith(" Paris")
