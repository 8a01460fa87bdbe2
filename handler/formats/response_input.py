"""From a Responses request to a conversation: items become messages, flat tools become functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from handler.conversation.conversation import Conversation, Tool, ToolChoice
from handler.engine.grammar import GrammarSpec
from handler.errors import InvalidRequestError
from handler.schema.codec import check_depth
from handler.schema.response_items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    MessageItem,
    MessagePart,
    ResponseTextConfig,
    ResponseToolChoiceAllowed,
    ResponseToolChoiceFunction,
    ReturnedText,
    TextFormatSchema,
)
from handler.schema.responses import ResponseRequest
from handler.schema.structured import JsonObjectFormat
from handler.structured import grammar_spec

Message = dict[str, Any]


def conversation_of(request: ResponseRequest) -> Conversation:
    """What the request asks of a model that talks.

    Raises:
        InvalidRequestError: a call without an output, or an output without a call; arguments that are no JSON object;
            a choice of a tool that the request does not declare; two forms for one text.
    """
    output, output_param = output_spec(request)
    return Conversation(
        messages=[*_instructions(request), *_messages(request.input)],
        messages_param="input",
        tools=_tools(request),
        tool_choice=_tool_choice(request),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        output=output,
        output_param=output_param,
    )


def _instructions(request: ResponseRequest) -> list[Message]:
    return [] if request.instructions is None else [{"role": "system", "content": request.instructions}]


def _messages(items: str | list[InputItem]) -> list[Message]:
    """Messages in order; the calls of one turn and the text before them are one message."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    _check_calls(items)
    messages: list[Message] = []
    for index, item in enumerate(items):
        if isinstance(item, MessageItem):
            # Newer models know `system` as `developer`; templates know `system`.
            role = "system" if item.role == "developer" else item.role
            messages.append({"role": role, "content": _text(item.content)})
        elif isinstance(item, FunctionCallItem):
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(_tool_call(item, f"input[{index}].arguments"))
        else:
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
    return messages


def _tool_call(item: FunctionCallItem, path: str) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(item.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError(f"{path}: not a JSON object: {error}", path) from error
    check_depth(item.arguments or "{}", path)
    return {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": arguments}}


def _tools(request: ResponseRequest) -> tuple[Tool, ...]:
    """The functions that may be called, under names that are theirs alone."""
    tools = [
        Tool(
            name=tool.name,
            description=tool.description,
            parameters=tool.parameters,
            strict=tool.strict is not False,
            param=f"tools[{index}].parameters",
        )
        for index, tool in enumerate(request.tools or ())
    ]
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            path = f"tools[{index}].name"
            raise InvalidRequestError(f"{path}: an earlier tool is called {name!r} already", path)
    choice = request.tool_choice
    if not isinstance(choice, ResponseToolChoiceAllowed):
        return tuple(tools)
    for index, allowed in enumerate(choice.tools):
        _check_declared(allowed.name, names, f"tool_choice.tools[{index}].name")
    return tuple(tool for tool in tools if tool.name in {allowed.name for allowed in choice.tools})


def _tool_choice(request: ResponseRequest) -> ToolChoice:
    choice = request.tool_choice or "auto"
    if isinstance(choice, ResponseToolChoiceAllowed):
        return ToolChoice(choice.mode)
    if isinstance(choice, ResponseToolChoiceFunction):
        _check_declared(choice.name, [tool.name for tool in request.tools or ()], "tool_choice.name")
        return ToolChoice("named", choice.name)
    if choice == "required" and not request.tools:
        raise InvalidRequestError("tool_choice: 'required' needs tools", "tool_choice")
    return ToolChoice(choice)


def output_spec(request: ResponseRequest) -> tuple[GrammarSpec | None, str]:
    """What the text has to obey and the field that asks for it; a schema is obeyed whatever its `strict` says."""
    asked = _format_spec(request.text)
    extension = grammar_spec(request)
    if asked is not None and extension is not None:
        raise InvalidRequestError(f"{extension[1]} cannot be combined with {asked[1]}", extension[1])
    return asked or extension or (None, "text.format")


def _format_spec(text: ResponseTextConfig | None) -> tuple[GrammarSpec, str] | None:
    match None if text is None else text.format:
        case JsonObjectFormat():
            return GrammarSpec("json_object"), "text.format"
        case TextFormatSchema(schema=schema):
            return GrammarSpec("json_schema", msgspec.json.encode(schema).decode()), "text.format.schema"
        case _:
            return None


def _check_declared(name: str, names: Sequence[str], path: str) -> None:
    if name not in names:
        raise InvalidRequestError(f"{path}: {name!r} is not among tools", path)


def _text(content: str | Sequence[MessagePart | ReturnedText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _check_calls(items: list[InputItem]) -> None:
    for path, problem in _unmatched(items):
        raise InvalidRequestError(f"{path}: {problem}", path)


def _unmatched(items: list[InputItem]) -> Iterator[tuple[str, str]]:
    """Calls and outputs that have no counterpart where it belongs, as paths and problems."""
    waiting: dict[str, tuple[str, str]] = {}
    seen: set[str] = set()
    for index, item in enumerate(items):
        if isinstance(item, FunctionCallItem):
            if item.call_id in seen:
                yield f"input[{index}].call_id", f"an earlier call has the id {item.call_id!r} already"
            seen.add(item.call_id)
            waiting[item.call_id] = (f"input[{index}].call_id", item.name)
        elif isinstance(item, FunctionCallOutputItem):
            call = waiting.pop(item.call_id, None)
            if call is None:
                yield f"input[{index}].call_id", f"no call {item.call_id!r} waits for an output"
            elif item.name not in (None, call[1]):
                yield f"input[{index}].name", f"call {item.call_id!r} is of {call[1]!r}"
    for path, _ in waiting.values():
        yield path, "the call has no output: send its function_call_output as well"
