"""From the items of a request to the messages that chat templates know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from handler.errors import InvalidRequestError
from handler.schema.response_items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    InputText,
    MessageItem,
    MessagePart,
)
from handler.schema.responses import ResponseRequest

Message = dict[str, Any]


def messages_of(request: ResponseRequest) -> list[Message]:
    """The conversation: instructions first, the calls of one turn in one message.

    Raises:
        InvalidRequestError: a call without an output, or an output without a call.
    """
    messages = [] if request.instructions is None else [{"role": "system", "content": request.instructions}]
    if isinstance(request.input, str):
        return [*messages, {"role": "user", "content": request.input}]
    _check_calls(request.input)
    names: dict[str, str] = {}
    for item in request.input:
        if isinstance(item, MessageItem):
            # The schema's `developer` is what `system` is called for newer models; templates know `system`.
            role = "system" if item.role == "developer" else item.role
            messages.append({"role": role, "content": _text(item.content)})
        elif isinstance(item, FunctionCallItem):
            names[item.call_id] = item.name
            _assistant(messages).setdefault("tool_calls", []).append(_tool_call(item))
        else:
            name, output = names[item.call_id], _text(item.output)
            messages.append({"role": "tool", "tool_call_id": item.call_id, "name": name, "content": output})
    return messages


def _assistant(messages: list[Message]) -> Message:
    """The assistant's message that a call belongs to: the last one, or a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _tool_call(item: FunctionCallItem) -> dict[str, Any]:
    return {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}


def _text(content: str | Sequence[MessagePart | InputText]) -> str:
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
