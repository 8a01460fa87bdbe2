"""Compiles what a completion must look like: JSON schemas, regular expressions, choices and grammars.

Owns llguidance's view of the vocabulary, which is made with the first grammar and never at boot, and the grammars that
were asked for lately. Knows no request and no logits. Any thread may compile: a large schema takes seconds, so the
event loop must not.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from handler.errors import InvalidRequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "grammar"]

_CACHED_GRAMMARS = 64
_LONGEST_REASON = 400
_JSON_OBJECT = '{"type":"object"}'


class GrammarSpec(msgspec.Struct, frozen=True):
    """What to compile.

    `text` is a JSON schema, a regular expression (Rust's syntax, which knows no look-around), a JSON list of strings, or
    a grammar in Lark or GBNF; it says nothing where the kind is `json_object`.
    """

    kind: GrammarKind
    text: str = ""


class Grammar:
    """A compiled grammar. Shared by all sequences that follow it; each has a matcher of its own."""

    def __init__(self, spec: GrammarSpec, prototype: LLMatcher) -> None:
        self.spec = spec
        self._prototype = prototype

    def start(self) -> LLMatcher:
        """A matcher at the beginning of the completion."""
        return self._prototype.deep_copy()


class GrammarCompiler:
    """Compiles grammars for one model.

    Args:
        tokenizer_file: the snapshot's tokenizer.json.
        end_token_ids: the model's own end tokens; what is complete goes on with one of them.
        vocab_size: logits in a row, which may be more than the tokenizer has tokens.
    """

    def __init__(self, tokenizer_file: Path, end_token_ids: tuple[int, ...], vocab_size: int) -> None:
        self._tokenizer_file = tokenizer_file
        self._end_token_ids = end_token_ids
        self._vocab_size = vocab_size
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()
        self._grammars: OrderedDict[GrammarSpec, Grammar] = OrderedDict()

    def compile(self, spec: GrammarSpec, param: str) -> Grammar:
        """The grammar of a spec.

        Raises:
            InvalidRequestError: it cannot be compiled, or nothing can match it; says why, and names `param`.
        """
        with self._lock:
            grammar = self._grammars.get(spec)
            if grammar is not None:
                self._grammars.move_to_end(spec)
                return grammar
            tokenizer = self._open_tokenizer(param)
        grammar = Grammar(spec, _compile(spec, tokenizer, param))
        with self._lock:
            self._grammars[spec] = grammar
            if len(self._grammars) > _CACHED_GRAMMARS:
                self._grammars.popitem(last=False)
        return grammar

    def _open_tokenizer(self, param: str) -> LLTokenizer:
        if self._tokenizer is None:
            from llguidance import LLTokenizer  # noqa: PLC0415  (70 ms that no boot should pay)

            if not self._end_token_ids:
                raise InvalidRequestError(f"{param}: the model has no end token, so no output would be complete", param)
            try:
                self._tokenizer = LLTokenizer(
                    self._tokenizer_file.read_text(encoding="utf-8"),
                    n_vocab=self._vocab_size,
                    eos_token=list(self._end_token_ids),
                )
            except ValueError as error:
                raise InvalidRequestError(
                    f"{param}: not with this model's tokenizer: {_reason(str(error))}", param
                ) from error
        return self._tokenizer


def _compile(spec: GrammarSpec, tokenizer: LLTokenizer, param: str) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415

    limits = LLParserLimits(
        initial_lexer_fuel=200_000, step_lexer_fuel=100_000, max_lexer_states=20_000, verbose_errors=False
    )
    try:
        matcher = LLMatcher(tokenizer, _source(spec), log_level=0, limits=limits)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{param} cannot be compiled: {_reason(str(error))}", param) from error
    if matcher.is_error():
        raise InvalidRequestError(f"{param} cannot be compiled: {_reason(matcher.get_error())}", param)
    return matcher


def _source(spec: GrammarSpec) -> str:
    """The grammar in llguidance's own form."""
    from llguidance import LLMatcher  # noqa: PLC0415
    from llguidance.gbnf_to_lark import any_to_lark  # noqa: PLC0415

    if spec.kind == "regex":
        return LLMatcher.grammar_from_regex(spec.text)
    if spec.kind == "choice":
        choices: list[str] = json.loads(spec.text)
        return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, choices)))
    if spec.kind == "grammar":
        return LLMatcher.grammar_from_lark(any_to_lark(spec.text))
    schema = _JSON_OBJECT if spec.kind == "json_object" else spec.text
    # As json.dumps writes it. Where more whitespace is allowed, small models write nothing else.
    return LLMatcher.grammar_from_json_schema(
        schema, defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    )


def _reason(text: str) -> str:
    """What the library says, on one line and not too long."""
    text = re.sub(r"\s+", " ", text).strip()
    half = _LONGEST_REASON // 2
    return text if len(text) <= _LONGEST_REASON else f"{text[:half]} ... {text[-half:]}"
