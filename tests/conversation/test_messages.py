from __future__ import annotations

from typing import Any

import msgspec
import pytest

from handler.conversation.messages import check_calls, template_messages
from handler.errors import InvalidRequestError
from handler.schema.messages import ChatMessage

DEEP = '{"a":' * 260 + "1" + "}" * 260
"""Valid, and too deep for what templates do with it."""


def shaped(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return template_messages(msgspec.convert(list(messages), list[ChatMessage]))


def calling(arguments: str) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def test_parts_become_text_and_developer_becomes_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert shaped(
        {"role": "developer", "content": parts, "name": "x"},
        {"role": "system", "content": "s"},
        {"role": "user", "content": parts},
        {"role": "tool", "content": parts, "tool_call_id": "call_1"},
    ) == [
        {"role": "system", "content": "ab", "name": "x"},
        {"role": "system", "content": "s"},
        {"role": "user", "content": "ab"},
        {"role": "tool", "content": "ab", "tool_call_id": "call_1"},
    ]


def test_an_assistant_may_have_refused() -> None:
    parts = [{"type": "text", "text": "I "}, {"type": "refusal", "refusal": "won't"}]
    assert shaped({"role": "assistant", "content": parts}) == [{"role": "assistant", "content": "I won't"}]
    refused = {"role": "assistant", "content": None, "refusal": "No."}
    assert shaped(refused) == [{"role": "assistant", "content": "No."}]


def test_templates_get_arguments_as_an_object() -> None:
    (message,) = shaped(calling('{"a": [1, "é"]}'))
    assert message["content"] == ""
    assert message["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"a": [1, "é"]}}}
    ]
    assert shaped(calling(""))[0]["tool_calls"][0]["function"]["arguments"] == {}


def test_a_message_without_calls_has_no_such_key() -> None:
    for calls in (None, []):
        assert shaped({"role": "assistant", "content": "x", "tool_calls": calls}) == [
            {"role": "assistant", "content": "x"}
        ]


@pytest.mark.parametrize("arguments", ["{", "[1]", "3", '"{}"', "{'a': 1}", "{}x", "[" * 100_000, DEEP])
def test_arguments_that_are_no_object_are_refused_by_their_path(arguments: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        shaped({"role": "user", "content": "x"}, calling(arguments))
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_an_assistant_who_says_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="needs content, a refusal or tool_calls") as caught:
        shaped({"role": "assistant"})
    assert caught.value.param == "messages[0].content"


def asking(*ids: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    return {"role": "assistant", "tool_calls": [{"id": each, "type": "function", "function": function} for each in ids]}


def result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "content": "1", "tool_call_id": call_id}


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([USER, result("a")], "messages[1].tool_call_id"),
        ([asking("a"), result("b")], "messages[1].tool_call_id"),
        ([asking("a"), result("a"), result("a")], "messages[2].tool_call_id"),
        ([asking("a"), result("a"), USER, result("a")], "messages[3].tool_call_id"),
        ([asking("a", "b"), result("b")], "messages[0].tool_calls[0].id"),
        ([asking("a"), USER, result("a")], "messages[0].tool_calls[0].id"),
        ([USER, asking("a")], "messages[1].tool_calls[0].id"),
        ([asking("a", "a"), result("a")], "messages[0].tool_calls[1].id"),
    ],
)
def test_calls_and_results_belong_together(messages: list[dict[str, Any]], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_calls(msgspec.convert(messages, list[ChatMessage]))
    assert caught.value.param == param


def test_results_come_in_any_order_and_ids_come_again_in_later_messages() -> None:
    messages = [USER, asking("a", "b"), result("b"), result("a"), asking("a"), result("a"), USER]
    check_calls(msgspec.convert(messages, list[ChatMessage]))
