"""What chat requests say of messages and tools, before any model has seen it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from handler.conversation.conversation import Conversation, TemplateOptions, Tool, ToolChoice
from handler.engine.grammar import GrammarSpec
from handler.errors import InvalidRequestError
from handler.formats.chat import ChatFormat
from handler.formats.chat_conversation import conversation_of

USER = {"role": "user", "content": "Hi"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "now", "description": "The time."}}
OTHER: dict[str, Any] = {"type": "function", "function": {"name": "later", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}


def conversation(**fields: Any) -> Conversation:
    body = msgspec.json.encode({"model": "m", "messages": [USER]} | fields)
    return conversation_of(ChatFormat().decode(body))


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


def test_a_plain_request_has_no_tools() -> None:
    assert conversation() == Conversation(messages=[USER])
    assert conversation(tools=None, tool_choice=None, parallel_tool_calls=None) == Conversation(messages=[USER])
    assert conversation(tools=[], tool_choice="auto", parallel_tool_calls=True) == Conversation(messages=[USER])


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL]},
        {"tool_choice": "none"},
        {"parallel_tool_calls": False},
        {"response_format": {"type": "json_object"}},
        {"guided_json": {"type": "object"}},
        {"guided_regex": "a"},
        {"guided_choice": ["a"]},
        {"guided_grammar": "start: /a/"},
        {"structured_outputs": {"regex": "a"}},
        {"add_generation_prompt": False},
        {"continue_final_message": True},
        {"chat_template_kwargs": {"a": 1}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_each_field_alone_makes_another_conversation(fields: dict[str, Any]) -> None:
    assert conversation(**fields) != conversation()


def test_tools_are_read() -> None:
    strict = {"type": "function", "function": {"name": "s", "strict": True, "parameters": {"type": "object"}}}
    found = conversation(tools=[TOOL, strict], parallel_tool_calls=False)
    assert found.tools == (
        Tool(name="now", description="The time.", param="tools[0].function.parameters"),
        Tool(name="s", parameters={"type": "object"}, strict=True, param="tools[1].function.parameters"),
    )
    assert found.tool_choice == ToolChoice("auto")
    assert found.parallel_tool_calls is False


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        ("none", ToolChoice("none"), ["now", "later"]),
        ("auto", ToolChoice("auto"), ["now", "later"]),
        ("required", ToolChoice("required"), ["now", "later"]),
        (named("later"), ToolChoice("named", "later"), ["now", "later"]),
        (allowed("auto", "later"), ToolChoice("auto"), ["later"]),
        (allowed("required", "now"), ToolChoice("required"), ["now"]),
    ],
)
def test_a_choice_is_made(choice: Any, expected: ToolChoice, names: list[str]) -> None:
    found = conversation(tools=[TOOL, OTHER], tool_choice=choice)
    assert found.tool_choice == expected
    assert [tool.name for tool in found.tools] == names


def test_options_of_the_template_and_the_answers_form_come_along() -> None:
    found = conversation(
        add_generation_prompt=False,
        chat_template_kwargs={"enable_thinking": False},
        response_format={"type": "json_object"},
    )
    assert found.template == TemplateOptions(add_generation_prompt=False, variables={"enable_thinking": False})
    assert (found.output, found.output_param) == (GrammarSpec("json_object"), "response_format")
    assert conversation(continue_final_message=True).template == TemplateOptions(continue_final_message=True)


def in_message(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": "x"} | fields]}


def function(**fields: Any) -> dict[str, Any]:
    return {"tools": [TOOL, {"type": "function", "function": {"name": "f"} | fields}]}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}, {"type": "image_url"}]}]},
        "messages[0].content[1]",
        "images are not supported",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        "messages[0].content[0]",
        "audio is not supported",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0]", "files are not"),
    (
        {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}]},
        "messages[0].content[0].type",
        "Invalid enum value 'refusal'",
    ),
    ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role", "use tools"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing required field"),
    ({"messages": [USER | {"tool_calls": [CALL]}]}, "messages[0].tool_calls", "unknown field"),
    ({"functions": [{"name": "f"}]}, "functions", "use tools"),
    ({"function_call": "auto"}, "function_call", "use tools"),
    (in_message(function_call={"name": "f", "arguments": "{}"}), "messages[1].function_call", "use tools"),
    (in_message(audio={"id": "a"}), "messages[1].audio", "null"),
    (in_message(tool_calls=[CALL | {"type": "custom"}]), "messages[1].tool_calls[0].type", "custom tools are not"),
    (
        in_message(tool_calls=[CALL | {"function": {"name": "now", "arguments": "{"}}]),
        "messages[1].tool_calls[0].function.arguments",
        "not valid JSON",
    ),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "custom tools are not supported"),
    ({"tools": [TOOL], "tool_choice": {"type": "custom"}}, "tool_choice.type", "custom tools are not supported"),
    (function(name="a b"), "tools[1].function.name", "matching"),
    (function(name="a" * 65), "tools[1].function.name", "matching"),
    (function(name=""), "tools[1].function.name", "matching"),
    (function(name="a\n"), "tools[1].function.name", "no part of a name"),
    (function(name="now"), "tools[1].function.name", "another tool"),
    (function(parameters=[]), "tools[1].function.parameters", "object"),
    (function(returns={}), "tools[1].function.returns", "unknown field"),
    ({"tools": [function(name=f"f{index}")["tools"][1] for index in range(129)]}, "tools", "128"),
    ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
    ({"tool_choice": named("now")}, "tool_choice", "there are no tools"),
    ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice", "Invalid"),
    ({"tools": [TOOL], "tool_choice": named("f")}, "tool_choice.function.name", "no tool 'f'"),
    (
        {"tools": [TOOL], "tool_choice": allowed("auto", "now", "f")},
        "tool_choice.allowed_tools.tools[1].function.name",
        "no tool 'f'",
    ),
]


@pytest.mark.parametrize(("fields", "param", "reason"), REFUSED)
def test_what_cannot_be_done_is_refused_by_its_path(fields: dict[str, Any], param: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        conversation(**fields)
    assert caught.value.param == param
    assert reason in str(caught.value)


def test_many_tools_are_fine() -> None:
    assert len(conversation(tools=[named(f"f{index}") for index in range(128)]).tools) == 128
