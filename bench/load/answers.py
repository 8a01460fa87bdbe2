"""Reads an answer, whole or streamed, and says what is wrong with it. Pure: it is given bytes and the times they came.

What can be seen of lost and doubled tokens depends on what is known of the answer:

- Its text, as of a stub engine: any token that is missing, doubled or another one.
- How many tokens it has to have (`ignore_eos`): whether the server counted as many.
- Nothing: more events with text than tokens counted, for no token makes two events; text after the finish reason; a
  second finish reason; chunks of another answer, by their id; no end. An event that repeats the one before it proves
  nothing, for a model may say a word twice; and an event that is missing does not show, for one may hold many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bench.record import Failure

_DONE = b"[DONE]"


class _Text(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Text | None = None
    message: _Text | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    """What is read of a chunk or of a whole completion; everything else is skipped."""

    id: str | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class Verdict(msgspec.Struct, frozen=True):
    """Why an answer is a miss."""

    failure: Failure
    error: str


class Answer:
    """One answer, read piece by piece.

    Attributes:
        token_times_s: arrival of each event with text.
        prompt_tokens: as the server counted, None where it did not.
        completion_tokens: likewise.
    """

    def __init__(self, *, is_stream: bool) -> None:
        self.token_times_s: list[float] = []
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self._is_stream = is_stream
        self._decoder = msgspec.json.Decoder(_Chunk)
        self._rest = b""
        self._texts: list[str] = []
        self._ids: set[str] = set()
        self._num_finishes = 0
        self._is_done = False
        self._is_late = False  # text came after the finish reason
        self._broken: str | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self._texts)

    def feed(self, time_s: float, piece: bytes) -> None:
        """Bytes of the body, and when they came."""
        data = self._rest + piece if self._rest else piece
        if not self._is_stream:
            self._rest = data
            return
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        for event in events:
            self._read_event(time_s, event)

    def judge(self, *, max_tokens: int, exact: bool, words: Sequence[str] | None) -> Verdict | None:
        """Why it is a miss, None where it is whole and, as far as can be seen, right.

        Args:
            max_tokens: that were asked for.
            exact: whether there must be as many.
            words: what it must say over and over, a word a token; None where that is not known.
        """
        if not self._is_stream and self._broken is None:
            self._read_chunk(0.0, self._rest)
        broken = self._broken or self._missing_end()
        if broken is not None:
            return Verdict("broken", broken)
        wrong = self._wrong_form() or self._wrong_count(max_tokens, exact=exact)
        if words is not None:
            wrong = _wrong_text(self.text, words, max_tokens) or wrong
        return None if wrong is None else Verdict("wrong", wrong)

    def _read_event(self, time_s: float, event: bytes) -> None:
        if not event.startswith(b"data:"):  # a comment, or fields before the data
            lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
            if not lines:
                return
            event = lines[0]
        data = event[5:].strip()
        if data == _DONE:
            self._is_done = True
        else:
            self._read_chunk(time_s, data)

    def _read_chunk(self, time_s: float, data: bytes) -> None:
        try:
            chunk = self._decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._broken = self._broken or f"what came is no chunk: {error}: {data[:200].decode(errors='replace')}"
            return
        if chunk.error is not None:
            self._broken = (
                self._broken or f"it broke off: {msgspec.json.encode(chunk.error)[:300].decode(errors='replace')}"
            )
        if chunk.id is not None:
            self._ids.add(chunk.id)
        if chunk.usage is not None:
            self.prompt_tokens, self.completion_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        for choice in chunk.choices:
            self._read_choice(time_s, choice)

    def _read_choice(self, time_s: float, choice: _Choice) -> None:
        said = choice.delta or choice.message
        text = (said.content or said.reasoning_content) if said is not None else None
        if text:
            self._texts.append(text)
            self._is_late = self._is_late or self._num_finishes > 0
            if self._is_stream:
                self.token_times_s.append(time_s)
        if choice.finish_reason is not None:
            self._num_finishes += 1

    def _missing_end(self) -> str | None:
        if self._is_stream and not self._is_done:
            return "the stream ended without [DONE]"
        return "it has no finish reason" if not self._num_finishes else None

    def _wrong_form(self) -> str | None:
        if len(self._ids) > 1:
            return f"chunks of {len(self._ids)} answers came in one"
        if self._is_late:
            return "text came after the finish reason"
        return f"{self._num_finishes} finish reasons came" if self._num_finishes > 1 else None

    def _wrong_count(self, max_tokens: int, *, exact: bool) -> str | None:
        counted = self.completion_tokens
        if counted is not None and len(self.token_times_s) > counted:
            return f"{len(self.token_times_s)} events with text came for {counted} tokens: some are doubled"
        if counted is not None and counted > max_tokens:
            return f"{counted} tokens were generated, {max_tokens} were allowed"
        if exact and counted is None:
            return "the server did not say how many tokens it generated"
        if exact and counted != max_tokens:
            return f"{counted} tokens were generated, {max_tokens} were asked for"
        return None


def _wrong_text(text: str, words: Sequence[str], num_words: int) -> str | None:
    """Where the text leaves what was to be said."""
    position = 0
    for number in range(num_words):
        word = words[number % len(words)]
        if not text.startswith(word, position):
            came = text[position : position + len(word) + 8]
            return f"token {number + 1} of {num_words} is to be {word!r}, but {came!r} came"
        position += len(word)
    return f"more than {num_words} tokens came: {text[position : position + 16]!r}" if position < len(text) else None
