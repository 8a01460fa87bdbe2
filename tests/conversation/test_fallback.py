from __future__ import annotations

from typing import Any

from handler.conversation.conversation import Tool
from handler.conversation.fallback import in_words
from tests.tool_templates import CONVERSATION, WEATHER

TOOLS = (Tool(name="get_weather", description="Tells it.", parameters=WEATHER, param="tools[0].function.parameters"),)
USER = {"role": "user", "content": "Hi"}


def roles(messages: list[dict[str, Any]]) -> list[str]:
    return [message["role"] for message in messages]


def test_tools_stand_behind_the_systems_own_words() -> None:
    system, *rest = in_words(CONVERSATION[:2], TOOLS, knows_system_role=True)
    assert system["role"] == "system"
    assert system["content"].startswith("Be brief.\n\n# Tools")
    assert '{"type":"function","function":{"name":"get_weather","description":"Tells it."' in system["content"]
    assert "<tool_call>\n{" in system["content"]
    assert rest == CONVERSATION[1:2]


def test_a_system_message_is_made_where_there_is_none() -> None:
    messages = in_words([USER], TOOLS, knows_system_role=True)
    assert roles(messages) == ["system", "user"]
    assert messages[1] == USER


def test_without_a_system_role_the_user_brings_the_tools() -> None:
    (message,) = in_words([USER], TOOLS, knows_system_role=False)
    assert message["role"] == "user"
    assert message["content"].startswith("# Tools")
    assert message["content"].endswith("\n\nHi")
    said = {"role": "assistant", "content": "Hello"}
    assert roles(in_words([said], TOOLS, knows_system_role=False)) == ["user", "assistant"]


def test_calls_and_results_become_text_of_roles_that_all_templates_know() -> None:
    call = CONVERSATION[2]["tool_calls"][0]
    messages = [
        USER,
        {"role": "assistant", "content": "I look.", "tool_calls": [call, call], "name": "bob"},
        {"role": "tool", "content": "18", "tool_call_id": "a"},
        {"role": "tool", "content": "19", "tool_call_id": "b"},
        {"role": "assistant", "content": "Warm."},
    ]
    written = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich", "unit": "c"}}\n</tool_call>'
    assert in_words(messages, (), knows_system_role=True) == [
        USER,
        {"role": "assistant", "content": f"I look.\n{written}\n{written}", "name": "bob"},
        {"role": "user", "content": "<tool_response>\n18\n</tool_response>\n<tool_response>\n19\n</tool_response>"},
        {"role": "assistant", "content": "Warm."},
    ]
    assert messages[1]["tool_calls"] == [call, call]


def test_messages_that_are_calls_and_results_alone_become_text_too() -> None:
    messages = [
        {"role": "assistant", "content": "", "tool_calls": CONVERSATION[2]["tool_calls"]},
        {"role": "tool", "content": "18", "tool_call_id": "a"},
    ]
    said, told = in_words(messages, (), knows_system_role=True)
    assert said["content"].startswith("<tool_call>\n")
    assert told == {"role": "user", "content": "<tool_response>\n18\n</tool_response>"}


def test_braces_in_a_description_are_no_placeholders() -> None:
    odd = (Tool(name="f", description="{tools} {0}", param="tools[0].function.parameters"),)
    assert "{tools} {0}" in in_words([USER], odd, knows_system_role=True)[0]["content"]
