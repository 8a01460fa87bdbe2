"""Text to tokens and back: encode, decode as tokens arrive, and stop strings. Knows no model and no chat.

`Tokenizer` is used from the thread pool and the engine thread alike (its calls share nothing mutable);
`TextStream` and `StopMatcher` belong to one sequence.
"""

from __future__ import annotations

import itertools
import json
import re
from functools import cached_property, partial
from pathlib import Path

import tokenizers
import tokenizers.decoders

from handler.engine.token_bound import TokenBound, token_bound
from handler.errors import CorruptSnapshotError

_REPLACEMENT = "\ufffd"
_CONTEXT_TOKENS = 5
_MAX_PENDING_TOKENS = 8  # a character has at most four bytes, so more undecodable tokens are no character
_MAX_OPEN_TOKENS = 3  # that many of the last ones may be the beginning of one nevertheless
_SENTENCEPIECE_SPACE = "\u2581"
_BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")
_QUICK_CHARACTERS = 4096
"""The library encodes a single text with the GIL held, which nobody feels with a short one; a batch lets it go."""


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, reversed (`bytes_to_unicode` of openai/gpt-2)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = itertools.count(256)
    return {chr(byte if byte in printable else next(stand_ins)): byte for byte in range(256)}


_BYTE_OF_CHARACTER = _byte_of_character()


class Tokenizer:
    """The snapshot's tokenizer.json."""

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CorruptSnapshotError(f"{path}: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self._added_tokens = frozenset(added)
        self._special_tokens = {token.content: token_id for token_id, token in added.items() if token.special}
        self.is_byte_level = isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel)

    @cached_property
    def bound(self) -> TokenBound | None:
        """How few tokens a text can have, None where that is not known. Takes 0.1 s once."""
        return token_bound(json.loads(self._tokenizer.to_str()), _BYTE_OF_CHARACTER, self.token_bytes)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`; special tokens that stand in the text count as such either way."""
        if len(text) <= _QUICK_CHARACTERS:
            encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        else:
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def encode_located(self, text: str, *, add_special_tokens: bool) -> tuple[list[int], list[int]]:
        """Token ids of `text` as `encode` gives them, and the character where each one begins.

        A token that stands for nothing in the text begins where the one before it ends, and the parts of one character
        all begin with it. A token has the white space before it, even where the tokenizer's own offsets leave that out.
        """
        if len(text) <= _QUICK_CHARACTERS:
            encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        else:
            (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        starts: list[int] = []
        previous_end = 0
        for start, end in encoding.offsets:
            starts.append(min(previous_end, start) if start < end else previous_end)
            previous_end = max(previous_end, end)
        return encoding.ids, starts

    def decode_located(self, token_ids: list[int]) -> tuple[str, list[int]]:
        """Text of `token_ids`, special tokens included, and the character where each one begins."""
        stream = TextStream(self, [], skip_special_tokens=False)
        text = ""
        starts: list[int] = []
        for token in token_ids:
            starts.append(len(text))
            text += stream.push(token)
        return text + stream.flush(), starts

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `token_ids`; bytes that form no character become U+FFFD."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def special_token_id(self, text: str) -> int | None:
        """The special token of that text, which `decode` skips; None if there is none."""
        return self._special_tokens.get(text)

    @property
    def special_token_ids(self) -> list[int]:
        """The special tokens, which `decode` skips."""
        return list(self._special_tokens.values())

    def piece(self, token_id: int) -> str | None:
        """The vocabulary's own spelling of one token, None for an id that it does not have."""
        return self._tokenizer.id_to_token(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for, even where they are part of a character only."""
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None:
            return b""  # the model's vocabulary may be padded beyond the tokenizer's
        if token_id in self._added_tokens:
            return piece.encode()
        if self.is_byte_level and all(character in _BYTE_OF_CHARACTER for character in piece):
            return bytes(_BYTE_OF_CHARACTER[character] for character in piece)
        byte = _BYTE_PIECE.fullmatch(piece)
        if byte is not None:
            return bytes([int(byte[1], 16)])
        return piece.replace(_SENTENCEPIECE_SPACE, " ").encode()


class TextStream:
    """Turns a sequence's tokens into text as they come, never splitting a character.

    A token's text may depend on those before it, so the last emitted tokens are decoded again beside the new ones
    and only what they add is new (the two-offset method of text-generation-inference).

    Special tokens have no text, but for those in `shown_token_ids`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_tokens: list[int],
        shown_token_ids: tuple[int, ...] = (),
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        self._decode = partial(tokenizer.decode, skip_special_tokens=skip_special_tokens)
        self._shown = {token_id: tokenizer.token_bytes(token_id).decode() for token_id in shown_token_ids}
        self._tokens = prompt_tokens[-_CONTEXT_TOKENS:]
        self._num_emitted = len(self._tokens)
        self._emitted_length = len(self._decode(self._tokens))  # characters of `_tokens` that are out

    def push(self, token_id: int) -> str:
        """The text that is certain with this token; empty while a character is incomplete."""
        shown = self._shown.get(token_id)
        if shown is not None:  # the text after it goes on from that before it, as behind any other special token
            return (self.flush() if len(self._tokens) > self._num_emitted else "") + shown
        self._tokens.append(token_id)
        text = self._decode(self._tokens)
        if text.endswith(_REPLACEMENT):
            pending = len(self._tokens) - self._num_emitted
            return "" if pending <= _MAX_PENDING_TOKENS else self._emit_undecodable(text)
        if len(text) == self._emitted_length:
            self._tokens.pop()  # a token without text must not push out the context
            return ""
        return self._emit(text)

    def flush(self) -> str:
        """What is still pending, with U+FFFD for an incomplete character."""
        return self._emit(self._decode(self._tokens))

    def _emit(self, text: str) -> str:
        new = text[self._emitted_length :]
        self._tokens = self._tokens[self._num_emitted :]
        self._num_emitted = len(self._tokens)
        self._emitted_length = len(self._decode(self._tokens))
        return new

    def _emit_undecodable(self, text: str) -> str:
        """All but the U+FFFD at the end that may still become a character."""
        tokens = self._tokens[-_MAX_OPEN_TOKENS:]
        kept = self._decode(tokens)
        num_open = min(_trailing_replacements(text), _trailing_replacements(kept))
        new = text[self._emitted_length : len(text) - num_open]
        self._tokens, self._num_emitted, self._emitted_length = tokens, 0, len(kept) - num_open
        return new


def _trailing_replacements(text: str) -> int:
    return len(text) - len(text.rstrip(_REPLACEMENT))


class StopMatcher:
    """Finds the first stop string in streamed text, and holds back what might become one.

    The first is the one that is complete first, so that the outcome does not depend on how the text was cut. The text
    ends before it, or with `include` behind it.
    """

    def __init__(self, stops: tuple[str, ...], *, include: bool = False) -> None:
        self._stops = stops
        self._include = include
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def push(self, text: str, *, may_stop: bool = True) -> tuple[str, str | None]:
        """Text that is safe to show, and the stop string that was found, if any. Text after a stop is dropped.

        A stop string that `text` completes counts only if it `may_stop`; one that `text` begins may count later.
        """
        if not self._stops:
            return text, None
        num_held = len(self._held)
        text = self._held + text
        found = []
        for stop in self._stops if may_stop else ():
            # What is complete within the held text was completed when it could not count.
            index = text.find(stop, max(0, num_held - len(stop) + 1))
            if index >= 0:
                found.append((index + len(stop), index, stop))
        if found:
            end, start, stop = min(found)
            self._held = ""
            return text[: end if self._include else start], stop
        held = self._held_length(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], None

    def flush(self) -> str:
        """Text held back that did not become a stop string after all."""
        held, self._held = self._held, ""
        return held

    def _held_length(self, text: str) -> int:
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
