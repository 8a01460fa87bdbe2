"""Tools in plain words, for templates that know none or write calls in a form that is unknown here.

The words are Hermes' dialect, which many models have seen: the tools in a system message, calls as `<tool_call>` in the
assistant's text, results as `<tool_response>` in the user's.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from handler.conversation.conversation import Tool, describe_tool
from handler.conversation.markers import HERMES_CLOSE, HERMES_OPEN

Message = dict[str, Any]

_BARE = {2}
"""Members of a message that has a role and content alone: neither calls nor results have so few."""

_INSTRUCTIONS = """\
# Tools

You may call one or more functions to help with the user's request.

These are the functions, one JSON description in each line within <tools></tools>:
<tools>
{tools}
</tools>

To call a function, write a JSON object with its name and its arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <function name>, "arguments": <object of arguments>}}
</tool_call>
Results come back within <tool_response></tool_response>."""


def in_words(messages: list[Message], tools: tuple[Tool, ...], *, knows_system_role: bool) -> list[Message]:
    """Messages of system, user and assistant alone, with everything about tools in their text."""
    if not tools and {*map(len, messages)} == _BARE:
        return messages
    plain: list[Message] = []
    follows_result = False
    for message in messages:
        if message["role"] == "tool":
            response = f"<tool_response>\n{message['content']}\n</tool_response>"
            if follows_result:
                plain[-1] = plain[-1] | {"content": f"{plain[-1]['content']}\n{response}"}
            else:
                plain.append({"role": "user", "content": response})
        elif "tool_calls" in message:
            parts = [message["content"], *(_call_in_words(call["function"]) for call in message["tool_calls"])]
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            plain.append(rest | {"content": "\n".join(part for part in parts if part)})
        else:
            plain.append(message)
        follows_result = message["role"] == "tool"
    return _with_instructions(plain, tools, "system" if knows_system_role else "user") if tools else plain


def _call_in_words(function: dict[str, Any]) -> str:
    call = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
    return f"{HERMES_OPEN}\n{call}\n{HERMES_CLOSE}"


def _with_instructions(messages: list[Message], tools: tuple[Tool, ...], role: str) -> list[Message]:
    """The tools in the first message of that role, which may have to be made."""
    described = "\n".join(msgspec.json.encode(describe_tool(tool)).decode() for tool in tools)
    text = _INSTRUCTIONS.format(tools=described)
    first = messages[0] if messages else None
    if first is not None and first["role"] == role:
        parts = (first["content"], text) if role == "system" else (text, first["content"])
        return [first | {"content": "\n\n".join(part for part in parts if part)}, *messages[1:]]
    return [{"role": role, "content": text}, *messages]
