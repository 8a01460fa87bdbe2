"""Items, parts and tools that OpenAI's Responses API has and this one has not: refused by name, with the reason.

Looks at a body before its types are checked, which would only say that a value is not among the known ones. Whole
fields that are not supported are the schema's (`unsupported`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from handler.errors import InvalidRequestError

_NOT_STORED = "nothing is stored here: send the conversation's earlier items in `input`"
_TEXT_ONLY = "the model takes text only"
_BUILT_IN = "only functions that the client runs can be called"

_ITEMS = {
    "item_reference": _NOT_STORED,
    "compaction": _NOT_STORED,
    "compaction_trigger": "the input is never compacted",
    "reasoning": "the model does not reason apart from its answer",
}
_KNOWN_ITEMS = {"message", "function_call", "function_call_output"}
_KNOWN_PARTS = {"input_text", "output_text", "refusal"}


def refuse_unsupported(body: dict[str, Any]) -> None:
    """Refuse what is not supported, wherever it stands.

    Raises:
        InvalidRequestError: `param` is the path of the field.
    """
    for path, reason in _unsupported(body):
        raise InvalidRequestError(f"{path}: {reason}", path)


def _unsupported(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _reasoning(body.get("reasoning"))
    if isinstance(body.get("input"), list):
        yield from _items(body["input"])
    if isinstance(body.get("tools"), list):
        yield from _tools(body["tools"])
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(kind, str) and kind not in {"function", "allowed_tools"}:
        yield "tool_choice.type", f"{kind!r} is not supported: {_BUILT_IN}"


def _reasoning(reasoning: object) -> Iterator[tuple[str, str]]:
    for name, value in reasoning.items() if isinstance(reasoning, dict) else ():
        if value is not None and (name, value) != ("effort", "none"):
            yield f"reasoning.{name}", "not supported: the model does not reason apart from its answer"


def _items(items: list[Any]) -> Iterator[tuple[str, str]]:
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        kind = item.get("type") or ("message" if "role" in item else "item_reference")
        if isinstance(kind, str) and kind not in _KNOWN_ITEMS:
            yield f"input[{index}].type", f"{kind!r} is not supported: {_ITEMS.get(kind, _BUILT_IN)}"
        for name in ("content", "output"):
            yield from _parts(f"input[{index}].{name}", item.get(name))


def _parts(path: str, parts: object) -> Iterator[tuple[str, str]]:
    for index, part in enumerate(parts if isinstance(parts, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in _KNOWN_PARTS:
            yield f"{path}[{index}].type", f"{kind!r} is not supported: {_TEXT_ONLY}"


def _tools(tools: list[Any]) -> Iterator[tuple[str, str]]:
    for index, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "function":
            yield f"tools[{index}].type", f"{kind!r} is not supported: {_BUILT_IN}"
