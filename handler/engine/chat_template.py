"""Renders chat messages into a prompt with the model's own template, in jinja2's sandbox.

The environment is the one that transformers gives templates (`transformers.utils.chat_template_utils`).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser

from handler.engine.json_file import read_json
from handler.engine.template_bounds import bounded_text
from handler.engine.template_filters import paid
from handler.engine.template_sandbox import BoundedEnvironment, render_bounded
from handler.engine.tool_syntax import ToolSyntax, detect_tool_syntax, knows_system_role
from handler.errors import CorruptSnapshotError, InvalidRequestError

_NO_VARIABLES: Mapping[str, Any] = {}


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks assistant text for training; when serving it is just its body."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as a plain class attribute)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Consume the tags, return the statements between them in a scope of their own."""
        line = next(parser.stream).lineno
        return [jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)]


class ChatTemplate:
    """One compiled template with the special tokens it may name. Safe to use from several threads.

    What only some requests ask about it is found out when the first of them does: no boot should pay for that.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, GenerationTag]
        )
        environment.filters["tojson"] = paid(_tojson)
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except (
            jinja2.TemplateError,
            RecursionError,
            SyntaxError,
            MemoryError,
            ValueError,
        ) as error:  # jinja2 writes Python
            raise CorruptSnapshotError(f"chat template: {error}") from error
        self._source = source
        self._special_tokens = special_tokens

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names that the template reads and does not set itself."""
        return frozenset(jinja2.meta.find_undeclared_variables(self._template.environment.parse(self._source)))

    @cached_property
    def tool_syntax(self) -> ToolSyntax | None:
        """How it writes tool calls; None if it knows no tools, or writes calls in a form that is unknown here."""
        return detect_tool_syntax(self._probe)

    @cached_property
    def knows_system_role(self) -> bool:
        """Whether system messages reach the prompt."""
        return knows_system_role(self._probe)

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] = _NO_VARIABLES,
    ) -> str:
        """The prompt for `messages`, and the tools that may be called, as OpenAI's requests describe them.

        `variables` are for the template alone and win over its special tokens.

        Raises:
            InvalidRequestError: the template refuses these messages, or cannot digest them.
        """
        try:
            return render_bounded(
                self._template,
                self._special_tokens
                | {"documents": None}
                | dict(variables)
                | {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt},
            )
        except Exception as error:  # a template is a program: whatever it raises, these messages made it
            raise InvalidRequestError(
                f"The model's chat template refuses these messages: {error}", "messages"
            ) from error

    def _probe(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        return self.render(messages, tools=tools or None)


def read_chat_template(directory: Path) -> ChatTemplate | None:
    """The snapshot's template, None if the model has none."""
    path = directory / "chat_template.jinja"
    if not path.is_file():
        return None
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptSnapshotError(f"{path} is not UTF-8: {error.reason}") from error
    return ChatTemplate(source, _special_tokens(directory))


def _special_tokens(directory: Path) -> dict[str, str]:
    path = directory / "tokenizer_config.json"
    if not path.is_file():
        return {}
    raw = read_json(path, dict[str, Any], "configuration")
    tokens = {}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = raw.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None:
            tokens[key] = str(value)
    return tokens


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return dt.datetime.now().astimezone().strftime(form)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    bounded_text(value, (indent or 0) + sum(map(len, separators or ())))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
