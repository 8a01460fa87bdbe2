"""What a completion's text means: deltas of text and of tool calls, as they come. One parser for each choice.

Parsers are mutable and belong to the thread that pushes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec


class TextDelta(msgspec.Struct, frozen=True):
    """Text of the answer; never empty."""

    text: str


class CallStart(msgspec.Struct, frozen=True):
    """A tool call begins. Calls of an answer are numbered from 0; they come one after the other."""

    index: int
    id: str
    name: str


class CallArguments(msgspec.Struct, frozen=True):
    """A piece of a call's arguments, JSON as the model wrote it; never empty."""

    index: int
    text: str


class CallEnd(msgspec.Struct, frozen=True):
    """The call's arguments are complete. A call that was cut off has no end."""

    index: int


OutputDelta = TextDelta | CallStart | CallArguments | CallEnd


class OutputParser(Protocol):
    """Reads one choice's text. The deltas add up to the same, however the text is cut into pieces."""

    @property
    def stops_for_calls(self) -> bool:
        """Whether a choice that stopped did so to have its calls answered: `finish_reason` "tool_calls"."""

    def push(self, text: str) -> list[OutputDelta]:
        """What is certain with this text."""

    def finish(self) -> list[OutputDelta]:
        """What was held back, once the choice has ended."""


ParserFactory = Callable[[], OutputParser]


class ParsedCall(msgspec.Struct):
    """A whole tool call. `is_complete` is false where the completion was cut off within it."""

    id: str
    name: str
    arguments: str = ""
    is_complete: bool = False


class ParsedOutput(msgspec.Struct):
    """A whole completion. `content` is empty where it has calls only."""

    content: str = ""
    calls: list[ParsedCall] = []

    def add(self, delta: OutputDelta) -> None:
        """Take in what came next."""
        match delta:
            case TextDelta(text):
                self.content += text
            case CallStart(_, call_id, name):
                self.calls.append(ParsedCall(call_id, name))
            case CallArguments(index, text):
                self.calls[index].arguments += text
            case CallEnd(index):
                self.calls[index].is_complete = True


def parse_whole(parser: OutputParser, text: str) -> ParsedOutput:
    """A fresh parser's reading of a complete text."""
    output = ParsedOutput()
    for delta in [*parser.push(text), *parser.finish()]:
        output.add(delta)
    return output
