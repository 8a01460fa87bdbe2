"""Items of a request as the messages and tools that templates know."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler.conversation.conversation import Conversation, Tool, ToolChoice
from handler.errors import InvalidRequestError
from handler.formats.response_input import conversation_of
from handler.formats.responses import ResponsesFormat

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "f", "description": "does", "parameters": {"type": "object"}, "strict": False},
    {"type": "function", "name": "g"},
]


def read(items: Any = "hello", **fields: Any) -> Conversation:
    body = {"model": "tiny", "input": items} | fields
    return conversation_of(ResponsesFormat().decode(orjson.dumps(body)))


def call(call_id: str, name: str = "f", arguments: str = '{"x": 1}') -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str, returned: Any = "1", **fields: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": returned} | fields


def tool_call(call_id: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


def test_calls_of_a_turn_belong_to_its_message() -> None:
    text = {"type": "input_text", "text": "b"}
    said = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]}  # fmt: skip
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, text]},
        said,
        call("c1") | {"id": "fc_1", "status": "completed"},
        call("c2", arguments="{}"),
        output("c1", "sun"),
        output("c2", [{"type": "input_text", "text": "ra"}, {"type": "input_text", "text": "in"}], name="f"),
        call("c3"),
        output("c3"),
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ]
    assert read(items, instructions="You help.").messages == [
        {"role": "system", "content": "You help."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "I look.", "tool_calls": [tool_call("c1", {"x": 1}), tool_call("c2", {})]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c2", "content": "rain"},
        {"role": "assistant", "content": "", "tool_calls": [tool_call("c3", {"x": 1})]},
        {"role": "tool", "tool_call_id": "c3", "content": "1"},
        {"role": "assistant", "content": "No."},
    ]


def test_tools_are_strict_unless_they_say_otherwise() -> None:
    assert read(tools=TOOLS).tools == (
        Tool(name="f", description="does", parameters={"type": "object"}, strict=False, param="tools[0].parameters"),
        Tool(name="g", strict=True, param="tools[1].parameters"),
    )
    assert read().tools == ()


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        (None, ToolChoice("auto"), ["f", "g"]),
        ("none", ToolChoice("none"), ["f", "g"]),
        ("required", ToolChoice("required"), ["f", "g"]),
        ({"type": "function", "name": "g"}, ToolChoice("named", "g"), ["f", "g"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]},
         ToolChoice("auto"), ["g"]),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
         ToolChoice("required"), ["f"]),
    ],
)  # fmt: skip
def test_tool_choices(choice: Any, expected: ToolChoice, names: list[str]) -> None:
    conversation = read(tools=TOOLS, tool_choice=choice)
    assert conversation.tool_choice == expected
    assert [tool.name for tool in conversation.tools] == names


def test_calls_are_parallel_unless_they_must_not_be() -> None:
    assert read().parallel_tool_calls
    assert read(parallel_tool_calls=True).parallel_tool_calls
    assert not read(parallel_tool_calls=False).parallel_tool_calls


WHOLE: dict[str, Any] = {
    "items": [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        call("c"),
        output("c", [{"type": "input_text", "text": "1"}]),
    ],
    "tools": TOOLS,
    "reasoning": {},
}


@pytest.mark.parametrize(
    "path",
    [
        "input[0].phase",
        "input[0].content[0].prompt_cache_breakpoint",
        "input[1].caller",
        "input[1].namespace",
        "input[1].async",
        "input[2].caller",
        "input[2].namespace",
        "input[2].output[0].prompt_cache_breakpoint",
        "tools[0].allowed_callers",
        "tools[0].defer_loading",
        "tools[0].async",
        "tools[0].output_schema",
        "reasoning.generate_summary",
        "reasoning.context",
        "reasoning.mode",
    ],
)
def test_members_that_mean_nothing_here_are_null_or_refused(path: str) -> None:
    for value in (None, {"type": "x"}):
        body: dict[str, Any] = json.loads(json.dumps(WHOLE))
        *parents, name = re.findall(r"\w+", path.replace("input", "items"))
        target: Any = body
        for parent in parents:
            target = target[int(parent) if parent.isdigit() else parent]
        target[name] = value
        if value is None:
            assert read(**body) == read(**WHOLE)
            continue
        with pytest.raises(InvalidRequestError) as caught:
            read(**body)
        assert caught.value.param == path


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"items": [call("c"), call("c")]}, "input[1].call_id", "already"),
        ({"items": [call("c")]}, "input[0].call_id", "has no output"),
        ({"items": [call("c"), output("d")]}, "input[1].call_id", "no call 'd' waits"),
        ({"items": [call("c"), output("c"), output("c")]}, "input[2].call_id", "no call 'c' waits"),
        ({"items": [output("c"), call("c")]}, "input[0].call_id", "no call 'c' waits"),
        ({"items": [call("c"), output("c", name="g")]}, "input[1].name", "is of 'f'"),
        ({"items": [call("c", arguments="nonsense"), output("c")]}, "input[0].arguments", "not a JSON object"),
        ({"items": [call("c", arguments="[1]"), output("c")]}, "input[0].arguments", "not a JSON object"),
        ({"items": [call("c", arguments='{"a":' * 260 + "1" + "}" * 260), output("c")]}, "input[0].arguments",
         "nested too deeply"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": {"type": "function", "name": "h"}, "tools": TOOLS}, "tool_choice.name", "not among tools"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "h"}]},
          "tools": TOOLS}, "tool_choice.tools[0].name", "not among tools"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools[2].name", "already"),
        ({"tools": [{"type": "function", "name": "no spaces"}]}, "tools[0].name", "regex"),
        ({"tools": [{"type": "function", "name": "line\n"}]}, "tools[0].name", "regex"),
        ({"tools": [TOOLS[0] | {"output_schema": {}}]}, "tools[0].output_schema", "null"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], param: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        read(**fields)
    assert caught.value.param == param


FIELDS = st.sampled_from(
    ["tools", "tool_choice", "reasoning", "text", "stream_options", "service_tier", "store", "truncation", "include"]
)
MEMBERS = st.sampled_from(
    ["type", "role", "content", "output", "call_id", "name", "arguments", "tools", "effort", "mode", "format", "schema"]
)
WORDS = st.sampled_from(
    ["message", "function_call", "function_call_output", "function", "input_text", "output_text", "user", "auto",
     "allowed_tools", "json_schema", "web_search", "reasoning", "c", "{}"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=4),
    max_leaves=12,
)


@example({"tool_choice": {"type": []}, "tools": [{"type": {}}]}, [{"type": [], "content": [{"type": []}]}])
@given(st.dictionaries(FIELDS, JSON, max_size=4), JSON)
def test_whatever_a_body_holds_it_is_a_conversation_or_refused(body: dict[str, Any], items: Any) -> None:
    try:
        conversation_of(ResponsesFormat().decode(json.dumps(body | {"model": "tiny", "input": items}).encode()))
    except InvalidRequestError as error:
        assert str(error)  # noqa: PT017  (either outcome is good)
