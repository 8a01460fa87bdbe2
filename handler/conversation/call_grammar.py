"""Grammars that make a model's calls good: a function that exists, and arguments that obey its schema.

Their text is Lark in llguidance's dialect (docs/syntax.md there).
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from handler.conversation.conversation import Tool
from handler.conversation.markers import HERMES_CLOSE, HERMES_OPEN, MISTRAL_ARGUMENTS, MISTRAL_OPEN, PYTHON_TAG
from handler.engine.grammar import GrammarSpec
from handler.engine.tokenizer import Tokenizer
from handler.engine.tool_syntax import ToolSyntax
from handler.errors import InvalidRequestError

_OPEN_ENDED = {"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", "allOf", "anyOf", "oneOf"}
# As models learn to write it. Where more white space is allowed, small ones get lost in it.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MAX_FORCED_CALLS = 16
"""Small models that must call and may call again do so until something stops them."""

_MORE = f"{{0,{MAX_FORCED_CALLS - 1}}}"
_ANY_TEXT = r"/(.|\n)*/"
_TEXT_BUT_JSON = r"/([^{ \t\r\n](.|\n)*)?/"


class CallGrammar:
    """Writes the grammars of one request's tools in the model's syntax. `at_most_one`: no answer has two calls."""

    def __init__(self, syntax: ToolSyntax, tools: tuple[Tool, ...], tokenizer: Tokenizer, *, at_most_one: bool) -> None:
        self._syntax = syntax
        self._tools = tools
        self._tokenizer = tokenizer
        # Llama's templates refuse a message with two calls, so its model is never made to write one.
        self._at_most_one = at_most_one or syntax is ToolSyntax.LLAMA

    def forced(self) -> GrammarSpec:
        """Nothing but calls, one at least; their arguments obey the schemas."""
        return _grammar(f"start: {self._calls()}", *self._bodies(strict_only=False))

    def free(self) -> GrammarSpec:
        """Text, and what begins as a call becomes one. The arguments of strict tools obey their schemas."""
        rules = [f"TEXT: {_TEXT_BUT_JSON if self._syntax is ToolSyntax.LLAMA else _ANY_TEXT}"]
        if self._syntax is ToolSyntax.LLAMA:
            start = f"TEXT | {self._marker(PYTHON_TAG)}? body"
        else:
            opener = self._marker(self._opener)
            if opener.startswith("<"):
                rules.append(f"opening: TEXT {opener}")
            else:
                rules.append(f"opening[lazy]: TEXT {opener}")  # text ends where the marker is complete
            group = f"opening {self._group()}"
            start = f"TEXT | {group}" if self._at_most_one else f"({group})* TEXT"
        return _grammar(f"start: {start}", *rules, *self._bodies(strict_only=True))

    def beside(self, output: GrammarSpec, param: str) -> GrammarSpec:
        """Either what `output` asks for, or calls.

        Raises:
            InvalidRequestError: `output` is a grammar of its own.
        """
        start = f"start: output | {self._calls()}"
        return _grammar(start, f"output: {_rule(output, param)}", *self._bodies(strict_only=True))

    @property
    def _opener(self) -> str:
        return HERMES_OPEN if self._syntax is ToolSyntax.HERMES else MISTRAL_OPEN

    def _calls(self) -> str:
        """One call or several, where nothing else may stand."""
        if self._syntax is ToolSyntax.LLAMA:
            return "body"
        call = f"{self._marker(self._opener)} {self._group()}"
        if self._at_most_one or self._syntax is ToolSyntax.MISTRAL_LIST:
            return call
        separator = '"\\n" ' if self._syntax is ToolSyntax.HERMES else ""
        return f"{call} ({separator}{call}){_MORE}"

    def _group(self) -> str:
        """What follows the opening marker: one call, in Mistral's lists all."""
        if self._syntax is ToolSyntax.HERMES:
            return f'"\\n" body "\\n" {self._marker(HERMES_CLOSE)}'
        if self._syntax is ToolSyntax.MISTRAL_LIST:
            more = "" if self._at_most_one else f' (", " body){_MORE}'
            return f'/ ?\\[/ body{more} "]"'
        return "body"

    def _bodies(self, *, strict_only: bool) -> list[str]:
        """A rule for each function: its name and arguments."""
        rules = ["body: " + " | ".join(f"body_{index}" for index in range(len(self._tools)))]
        for index, tool in enumerate(self._tools):
            schema = {"type": "object"} if strict_only and not tool.strict else arguments_schema(tool)
            rules.append(f"body_{index}: {self._body(tool.name, schema)}")
        return rules

    def _body(self, name: str, schema: dict[str, Any]) -> str:
        if self._syntax is ToolSyntax.MISTRAL_NAMED:
            return f"{_quoted(name)} {self._marker(MISTRAL_ARGUMENTS)} {_json_rule(schema)}"
        if self._syntax is ToolSyntax.LLAMA:
            return _json_rule(_llama_call(name, schema))
        head = _quoted(f'{{"name": "{name}", "arguments": ')
        return f'{head} {_json_rule(schema)} "}}"'

    def _marker(self, marker: str) -> str:
        """A special token by its id, anything else as text."""
        token_id = self._tokenizer.special_token_id(marker)
        return _quoted(marker) if token_id is None else f"<[{token_id}]>"


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments. What it does not name may not be written, unless it says so itself.

    Raises:
        InvalidRequestError: it is not the schema of an object.
    """
    schema = dict(tool.parameters or {"type": "object", "properties": {}})
    if schema.setdefault("type", "object") != "object":
        raise InvalidRequestError(f'{tool.param}: arguments are an object, so its type must be "object"', tool.param)
    if not _OPEN_ENDED & schema.keys():
        schema["additionalProperties"] = False
    return schema


def _llama_call(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A whole call as one schema: where JSON may stand beside it, the first brace does not tell which it is."""
    arguments = {"$id": "urn:arguments"} | schema  # an id of its own lets its references begin in itself
    properties = {"name": {"const": name}, "parameters": arguments}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _json_rule(schema: Any) -> str:
    if isinstance(schema, dict):
        schema = {"x-guidance": _SPACING} | schema
    return f"%json {msgspec.json.encode(schema).decode()}"


def _rule(output: GrammarSpec, param: str) -> str:
    match output.kind:
        case "json_object":
            return _json_rule({"type": "object"})
        case "json_schema":
            try:
                return _json_rule(msgspec.json.decode(output.text))
            except msgspec.DecodeError as error:
                raise InvalidRequestError(f"{param} is not valid JSON: {error}", param) from error
        case "regex":
            # Not in a class of its own, a slash ends the expression.
            return "/" + re.sub(r"(\\.)|/", lambda match: match[1] or r"\/", output.text, flags=re.DOTALL) + "/"
        case "choice":
            return " | ".join(_quoted(choice) for choice in msgspec.json.decode(output.text))
    raise InvalidRequestError(
        f"{param}: a grammar cannot stand beside calls that the model is free to make; "
        'set tool_choice to "none" or "required"',
        param,
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _grammar(*rules: str) -> GrammarSpec:
    return GrammarSpec("grammar", "\n".join(["%llguidance {}", *rules]))
