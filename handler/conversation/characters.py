"""Text that comes in pieces, read character by character by a coroutine that waits for more. Knows JSON, no calls."""

from __future__ import annotations

from collections.abc import Generator

import msgspec

SPACE = " \t\r\n"
_LONGEST_STRING = 512

Waiting = Generator[None, None, None]
Reading = Generator[None, None, str]


class UnexpectedError(Exception):
    """What came is not what was expected."""


class Characters:
    """A buffer of what is not certain yet; `position` is up to where it was read.

    The generators yield where they need more text, and go on with the next one.
    """

    def __init__(self) -> None:
        self.text = ""
        self.position = 0

    def drop(self, length: int) -> str:
        """Take characters away from the beginning; reading begins again."""
        dropped, self.text = self.text[:length], self.text[length:]
        self.position = 0
        return dropped

    def char(self) -> Reading:
        """The next character."""
        while self.position == len(self.text):
            yield
        self.position += 1
        return self.text[self.position - 1]

    def visible(self) -> Reading:
        """The next character that is no white space."""
        while (character := (yield from self.char())) in SPACE:
            pass
        return character

    def expect(self, expected: str) -> Waiting:
        """Read exactly these characters, after any white space."""
        character = yield from self.visible()
        for index, wanted in enumerate(expected):
            if index:
                character = yield from self.char()
            if character != wanted:
                raise UnexpectedError

    def string(self) -> Reading:
        """A short JSON string, decoded."""
        yield from self.expect('"')
        raw, is_escaped = '"', False
        while True:
            character = yield from self.char()
            raw += character
            if character == '"' and not is_escaped:
                break
            is_escaped = character == "\\" and not is_escaped
            if len(raw) > _LONGEST_STRING:
                raise UnexpectedError
        try:
            return msgspec.json.decode(raw, type=str)
        except msgspec.DecodeError as error:
            raise UnexpectedError from error

    def opens_object(self) -> Generator[None, None, bool]:
        """Whether an object begins here, which is not read yet; otherwise it is null."""
        if (yield from self.visible()) == "{":
            self.position -= 1
            return True
        self.position -= 1
        yield from self.expect("null")
        return False

    def object(self) -> Reading:
        """A whole JSON object, as it stands."""
        start, braces = self.position, Braces()
        while True:
            if self.position == len(self.text):
                yield
            length = braces.length(self.text[self.position :])
            self.position = len(self.text) if length is None else self.position + length
            if length is not None:
                return self.text[start : self.position]


class Braces:
    """Finds the end of a JSON object by its braces and brackets, whatever else is wrong with it."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def length(self, text: str) -> int | None:
        """How much of the next piece of text belongs to the object; None if all does, and it is not complete."""
        for index, character in enumerate(text):
            if self._in_string:
                self._read_in_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return index + 1
        return None

    def _read_in_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._in_string = False
