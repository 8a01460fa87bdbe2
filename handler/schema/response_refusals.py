"""What OpenAI's Responses API has and this one has not: refused by name, with the reason.

Looks at a body before its types are checked, for `Expected null` says nothing of why.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args

import msgspec

from handler.errors import InvalidRequestError
from handler.schema.responses import ResponseRequest

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
_FLAGS = {
    "store": "nothing is stored here",
    "background": "nothing is stored here, so an answer goes to who asks for it",
}


def refuse_unsupported(body: dict[str, Any]) -> None:
    """Refuse what is not supported, wherever it stands.

    Raises:
        InvalidRequestError: `param` is the path of the field.
    """
    for path, reason in _unsupported(body):
        raise InvalidRequestError(f"{path}: {reason}", path)


def _unsupported(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _fields(body)
    if isinstance(body.get("input"), list):
        yield from _items(body["input"])
    if isinstance(body.get("tools"), list):
        yield from _tools(body["tools"])
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(kind, str) and kind not in {"function", "allowed_tools"}:
        yield "tool_choice.type", f"{kind!r} is not supported: {_BUILT_IN}"


def _fields(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, reason in _null_fields().items():
        if body.get(name) is not None:
            yield name, f"not supported. {reason}"
    for name, reason in _FLAGS.items():
        if body.get(name) is True:
            yield name, f"true is not supported: {reason}"
    if body.get("truncation") == "auto":
        yield "truncation", "'auto' is not supported: what was sent is read whole or refused"
    if body.get("service_tier") not in (None, "auto", "default"):
        yield "service_tier", f"{body['service_tier']!r} is not supported: there is one tier, 'default'"
    if body.get("prompt_cache_retention") == "24h":
        yield "prompt_cache_retention", "'24h' is not supported: prompts are cached as memory allows"
    options = body.get("stream_options")
    if isinstance(options, dict) and options.get("include_obfuscation") is True:
        yield "stream_options.include_obfuscation", "true is not supported: events are not padded"
    yield from _reasoning(body.get("reasoning"))


@functools.cache
def _null_fields() -> dict[str, str]:
    """Fields that only null can fill, with their description."""
    fields = {field.name: get_args(field.type) for field in msgspec.structs.fields(ResponseRequest)}
    return {name: args[1].description for name, args in fields.items() if args and args[0] is NoneType}


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
