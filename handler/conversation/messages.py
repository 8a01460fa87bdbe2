"""From messages as they come in to messages as chat templates know them."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Any, NoReturn

import msgspec

from handler.errors import InvalidRequestError
from handler.schema.codec import check_depth
from handler.schema.messages import (
    AssistantText,
    AssistantTurn,
    ChatMessage,
    DeveloperMessage,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)
from handler.schema.tools import ToolCall

_ROLES: dict[type[ChatMessage], str] = {SystemMessage: "system", DeveloperMessage: "system", UserMessage: "user"}
"""Of those who only say something."""


def template_messages(messages: list[ChatMessage], param: str = "messages") -> list[dict[str, Any]]:
    """String content, arguments as objects, and no role that templates have never heard of.

    Raises:
        InvalidRequestError: an assistant's message that says nothing, or calls whose arguments are no JSON object.
    """
    shaped: list[dict[str, Any]] = []
    for message in messages:
        role, content = _ROLES.get(type(message)), message.content
        if role is not None and message.name is None and isinstance(content, str):  # like most
            shaped.append({"role": role, "content": content})
        else:
            shaped.append(_template_message(message, len(shaped), param))
    return shaped


def check_calls(messages: SequenceOf[ChatMessage], param: str = "messages") -> None:
    """Refuse what a model cannot make sense of: a result of no call, and a call that has no result.

    Ids need be unlike within one message only, for there are servers that begin anew with each.

    Raises:
        InvalidRequestError: names the id.
    """
    if _ROLES.keys() >= {*map(type, messages)}:
        return
    waiting: dict[str, str] = {}  # calls of the assistant's last message by id, each with the path of its id
    for index, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            if waiting.pop(message.tool_call_id, None) is None:
                path = f"{param}[{index}].tool_call_id"
                problem = f"no call {message.tool_call_id!r} of the assistant's message before waits for a result"
                raise InvalidRequestError(f"{path}: {problem}", path)
            continue
        if waiting:
            _refuse_unanswered(waiting)
        if not isinstance(message, AssistantTurn) or not message.tool_calls:
            continue
        for number, call in enumerate(message.tool_calls):
            path = f"{param}[{index}].tool_calls[{number}].id"
            if call.id in waiting:
                raise InvalidRequestError(f"{path}: another call of the message has the id {call.id!r} already", path)
            waiting[call.id] = path
    if waiting:
        _refuse_unanswered(waiting)


def _refuse_unanswered(waiting: dict[str, str]) -> NoReturn:
    call_id, path = next(iter(waiting.items()))
    raise InvalidRequestError(f"{path}: no message with role 'tool' follows that answers {call_id!r}", path)


def _template_message(message: ChatMessage, index: int, param: str) -> dict[str, Any]:
    shaped: dict[str, Any]
    match message:
        case AssistantTurn():
            path = f"{param}[{index}]"
            shaped = {"role": "assistant", "content": _assistant_text(message, path)}
            if message.tool_calls:
                shaped["tool_calls"] = [
                    _template_call(call, f"{path}.tool_calls[{number}].function.arguments")
                    for number, call in enumerate(message.tool_calls)
                ]
        case ToolMessage():
            shaped = {"role": "tool", "content": _text(message.content), "tool_call_id": message.tool_call_id}
        case _:
            shaped = {"role": _ROLES[type(message)], "content": _text(message.content)}
    return shaped if message.name is None else shaped | {"name": message.name}


def _text(content: str | SequenceOf[TextPart | AssistantText | RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)


def _assistant_text(message: AssistantTurn, param: str) -> str:
    """What it said, or how it refused; nothing only if it called tools."""
    if message.content is not None:
        return _text(message.content)
    if message.refusal is None and not message.tool_calls:
        raise InvalidRequestError(
            f"{param}.content: an assistant's message needs content, a refusal or tool_calls", f"{param}.content"
        )
    return message.refusal or ""


def _template_call(call: ToolCall, param: str) -> dict[str, Any]:
    try:
        # Some servers write nothing where a function has no parameters.
        arguments = msgspec.json.decode(call.function.arguments or "{}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError(f"{param} is not valid JSON: {error}", param) from error
    if not isinstance(arguments, dict):
        raise InvalidRequestError(f"{param}: arguments are a JSON object", param)
    check_depth(call.function.arguments or "{}", param)
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}
