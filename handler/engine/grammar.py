"""Compiles what a completion must look like: JSON schemas, regular expressions, choices and grammars.

Owns llguidance's view of the vocabulary, which is made with the first grammar and never at boot, and the grammars that
were asked for lately. Knows no request and no logits. Any thread may compile; it takes from a millisecond to seconds,
so the event loop must not.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from handler.engine.trial import Trial
from handler.errors import InvalidRequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from handler.engine.tokenizer import Tokenizer

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "grammar"]

LONGEST_TEXT = 1 << 18
_CACHED_RESULTS = 64
_LONGEST_REASON = 400
_JSON_OBJECT = '{"type":"object"}'


class GrammarSpec(msgspec.Struct, frozen=True):
    """What to compile.

    `text` is a JSON schema, a regular expression (in Rust's syntax, which knows no look-around), a JSON list of
    strings, or a grammar in Lark or GBNF; it says nothing where the kind is `json_object`.
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

    Each is tried in a process of its own first: there are schemas of fifty bytes with which llguidance works for hours,
    and others that overflow the stack, and its limits on work know neither.

    Args:
        tokenizer: the model's.
        tokenizer_file: what it was read from, the snapshot's tokenizer.json.
        end_token_ids: the model's own end tokens; what is complete goes on with one of them.
        vocab_size: logits in a row, which may be more than the tokenizer has tokens.
    """

    def __init__(
        self, tokenizer: Tokenizer, tokenizer_file: Path, end_token_ids: tuple[int, ...], vocab_size: int
    ) -> None:
        self._words = tokenizer
        self._vocabulary = Vocabulary(str(tokenizer_file), end_token_ids, vocab_size)
        self._trial = Trial(
            [sys.executable, "-P", "-m", "handler.engine.grammar_check", msgspec.json.encode(self._vocabulary).decode()]
        )
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()
        self._results: OrderedDict[GrammarSpec, Grammar | str] = OrderedDict()

    def compile(self, spec: GrammarSpec, param: str) -> Grammar:
        """The grammar of a spec.

        Raises:
            InvalidRequestError: it cannot be compiled, or nothing can match it; says why, and names `param`.
            OverloadedError: whether it can be compiled cannot be told now; nobody is refused for that later.
        """
        with self._lock:
            result = self._results.get(spec)
            if result is not None:
                self._results.move_to_end(spec)
        if result is None:
            result = self._try(spec)
            with self._lock:
                self._results[spec] = result
                if len(self._results) > _CACHED_RESULTS:
                    self._results.popitem(last=False)
        if isinstance(result, str):
            raise InvalidRequestError(f"{param} cannot be compiled: {result}", param)
        return result

    def _try(self, spec: GrammarSpec) -> Grammar | str:
        """The grammar, or why there is none."""
        if len(spec.text) > LONGEST_TEXT:
            return f"it has more than {LONGEST_TEXT} characters"
        reason = self._trial.run(msgspec.json.encode(spec))
        if reason:
            return reason
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._vocabulary.open_beside(self._words)
        return Grammar(spec, build_matcher(spec, self._tokenizer))


class Vocabulary(msgspec.Struct, frozen=True):
    """What llguidance has to know of the tokens."""

    tokenizer_file: str
    end_token_ids: tuple[int, ...]
    vocab_size: int

    def open(self) -> LLTokenizer:
        """The tokenizer in llguidance's form.

        Raises:
            ValueError: it does not know this kind of tokenizer; says why.
        """
        from llguidance import LLTokenizer  # noqa: PLC0415  (70 ms that no boot should pay)

        if not self.end_token_ids:
            raise ValueError("the model has no end token, so no output would ever be complete")
        text = Path(self.tokenizer_file).read_text(encoding="utf-8")
        return LLTokenizer(text, n_vocab=self.vocab_size, eos_token=list(self.end_token_ids))

    def open_beside(self, tokenizer: Tokenizer) -> LLTokenizer:
        """The same, of a tokenizer that was read already.

        llguidance holds the GIL while it reads one, which takes seconds if it is large: no sequence would advance.
        """
        from llguidance import LLTokenizer, TokenizerWrapper  # noqa: PLC0415

        if not tokenizer.is_byte_level:
            return self.open()  # of others llguidance knows more: how they treat the beginning of a text
        known = TokenizerWrapper(_KnownTokens(tokenizer, self))
        return LLTokenizer(known, n_vocab=self.vocab_size, eos_token=list(self.end_token_ids))


class _KnownTokens:
    """A byte-level tokenizer as llguidance wants to see it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = vocabulary.end_token_ids[0]
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(vocabulary.vocab_size)]
        unknown = [token_id for token_id, text in enumerate(self.tokens) if not text]  # no text may be made of them
        for token_id in unknown:
            self.tokens[token_id] = f"<[{token_id}]>".encode()
        self.special_token_ids = [*tokenizer.special_token_ids, *unknown]

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


def build_matcher(spec: GrammarSpec, tokenizer: LLTokenizer) -> LLMatcher:
    """A matcher that has looked at its first token, so that its copies need not.

    Raises:
        ValueError: there is no grammar like that; says why.
    """
    from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415

    limits = LLParserLimits(
        initial_lexer_fuel=200_000, step_lexer_fuel=100_000, max_lexer_states=20_000, verbose_errors=False
    )
    matcher = LLMatcher(tokenizer, _source(spec), log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        error = matcher.get_error()
        raise ValueError("nothing can match it" if error.startswith("NoExtension") else error)
    return matcher


def reason_of(error: Exception) -> str:
    """What the library says, on one line and not too long."""
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    half = _LONGEST_REASON // 2
    return text if len(text) <= _LONGEST_REASON else f"{text[:half]} ... {text[-half:]}"


def _source(spec: GrammarSpec) -> str:
    """The grammar in llguidance's own form."""
    from llguidance import LLMatcher  # noqa: PLC0415
    from llguidance.gbnf_to_lark import any_to_lark  # noqa: PLC0415

    if spec.kind == "regex":
        return LLMatcher.grammar_from_regex(spec.text)
    if spec.kind == "choice":
        choices: list[str] = json.loads(spec.text)
        return LLMatcher.grammar_from_lark("start: " + " | ".join(map(_lark_string, choices)))
    if spec.kind == "grammar":
        return LLMatcher.grammar_from_lark(any_to_lark(spec.text))
    schema = _JSON_OBJECT if spec.kind == "json_object" else spec.text
    # As json.dumps writes it. Where more whitespace is allowed, small models get lost in it.
    return LLMatcher.grammar_from_json_schema(
        schema, defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    )


def _lark_string(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")
