"""From the wire's fields about an answer's form to the one grammar that they ask for. Knows no format in particular."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import msgspec

from handler.engine.grammar import Grammar, GrammarCompiler, GrammarSpec
from handler.errors import InvalidRequestError
from handler.schema.sampling import SamplingFields
from handler.schema.structured import JsonObjectFormat, JsonSchemaFormat, ResponseFormat

STRUCTURE_FIELDS = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")
"""vLLM's, of which any says what form an answer has."""
_STRUCTURE = attrgetter(*STRUCTURE_FIELDS)
_NO_STRUCTURE = (None,) * len(STRUCTURE_FIELDS)


def compile_grammar(
    request: SamplingFields, response_format: ResponseFormat | None, grammars: GrammarCompiler
) -> Grammar | None:
    """The grammar that a request asks for, None if any text will do. Takes from a millisecond to seconds.

    Raises:
        InvalidRequestError: it asks for two, for one that cannot be compiled, or for what no grammar can keep.
    """
    found = grammar_spec(request, response_format)
    if found is None:
        return None
    spec, param = found
    check_compatible(request, param)
    return grammars.compile(spec, param)


def grammar_spec(
    request: SamplingFields, response_format: ResponseFormat | None = None
) -> tuple[GrammarSpec, str] | None:
    """What a request asks for, and the field that does.

    Raises:
        InvalidRequestError: two fields do; names the second.
    """
    if response_format is None and not _wants_structure(request):
        return None
    specs = list(_specs(request, response_format))
    if len(specs) > 1:
        (_, first), (_, second) = specs[:2]
        raise InvalidRequestError(f"{second} cannot be combined with {first}", second)
    return specs[0] if specs else None


def _wants_structure(request: SamplingFields) -> bool:
    """Whether any of vLLM's fields is there."""
    return _STRUCTURE(request) != _NO_STRUCTURE


def check_compatible(request: SamplingFields, param: str) -> None:
    """Refuse what the field named `param` leaves no room for: a grammar says when the answer may end and when it must.

    Raises:
        InvalidRequestError: the request forbids the end.
    """
    if request.ignore_eos:
        raise InvalidRequestError(f"ignore_eos cannot be combined with {param}, which says when to end", "ignore_eos")
    if request.min_tokens:
        raise InvalidRequestError(f"min_tokens cannot be combined with {param}, which says when to end", "min_tokens")


def _specs(request: SamplingFields, response_format: ResponseFormat | None) -> Iterator[tuple[GrammarSpec, str]]:
    if isinstance(response_format, JsonObjectFormat):
        yield GrammarSpec("json_object"), "response_format"
    if isinstance(response_format, JsonSchemaFormat):
        yield _schema(response_format.json_schema.schema), "response_format.json_schema.schema"
    yield from _guided(request.guided_json, request.guided_regex, request.guided_choice, request.guided_grammar)
    nested = request.structured_outputs
    if nested is not None:
        found = [*_guided(nested.json, nested.regex, nested.choice, nested.grammar, "structured_outputs.")]
        if nested.json_object:
            found.append((GrammarSpec("json_object"), "structured_outputs.json_object"))
        if not found:
            raise InvalidRequestError("structured_outputs says of no form what it is", "structured_outputs")
        yield from found


def _guided(
    schema: dict[str, Any] | str | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
    prefix: str = "guided_",
) -> Iterator[tuple[GrammarSpec, str]]:
    if schema is not None:
        yield _schema(schema), f"{prefix}json"
    if regex is not None:
        yield GrammarSpec("regex", regex), f"{prefix}regex"
    if choice is not None:
        yield GrammarSpec("choice", msgspec.json.encode(choice).decode()), f"{prefix}choice"
    if grammar is not None:
        yield GrammarSpec("grammar", grammar), f"{prefix}grammar"


def _schema(schema: dict[str, Any] | str) -> GrammarSpec:
    text = schema if isinstance(schema, str) else msgspec.json.encode(schema).decode()
    return GrammarSpec("json_schema", text)
