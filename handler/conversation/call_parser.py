"""Finds tool calls in a completion's text as it comes, and hands on their arguments piece by piece.

A call begins where its form begins and names a function that may be called. Text that does not get that far is text,
marker and all. From the first brace of its arguments on a call is a call: they are passed on as the model wrote them,
up to the brace that closes them, whether or not they are good JSON. White space around calls belongs to their form.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator

from handler.conversation.characters import SPACE, Braces, Characters, Reading, UnexpectedError, Waiting
from handler.conversation.markers import HERMES_CLOSE, MARKERS, MISTRAL_ARGUMENTS, MISTRAL_ID
from handler.conversation.output import CallArguments, CallEnd, CallStart, OutputDelta, TextDelta
from handler.engine.tool_syntax import ToolSyntax

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_LLAMA_SEPARATORS = re.compile(r"[ \t\r\n;]*")


class CallParser:
    """Reads one choice in one syntax: a coroutine, so that no cut of the text changes what comes out.

    `reports_calls`: calls are why the choice stops, as far as its `finish_reason` says.
    """

    def __init__(self, syntax: ToolSyntax, names: frozenset[str], *, reports_calls: bool = True) -> None:
        self._syntax = syntax
        self._names = names
        self._reports_calls = reports_calls
        self._opener = MARKERS[syntax][0]
        self._input = Characters()
        self._deltas: list[OutputDelta] = []
        self._num_calls = 0
        self._is_open = False  # within arguments
        self._is_ending = False  # within what a call's form has after the arguments
        self._follows_call = False  # nothing but white space since one
        self._may_be_bare = syntax is ToolSyntax.LLAMA  # a call may begin without a marker
        self._machine = self._run()
        next(self._machine)

    @property
    def stops_for_calls(self) -> bool:
        """Whether the choice stopped to have its calls answered, the last of which is complete."""
        return self._reports_calls and self._num_calls > 0 and not self._is_open

    def push(self, text: str) -> list[OutputDelta]:
        """What is certain with this text."""
        self._input.text += text
        next(self._machine)
        return self._take()

    def finish(self) -> list[OutputDelta]:
        """What was held back. What is left of a complete call's form is no text."""
        held = self._input.drop(len(self._input.text))
        if not self._is_ending and not (self._follows_call and not held.strip(SPACE)):
            self._emit_text(held)
        return self._take()

    def _take(self) -> list[OutputDelta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def _run(self) -> Waiting:
        while True:
            lead = yield from self._find_call()
            num_calls = self._num_calls
            try:
                yield from self._calls()
            except UnexpectedError:
                # Behind a call the buffer begins where its form ended; otherwise only the lead is certain to be text.
                self._emit_text(self._input.drop(max(1, lead) if self._num_calls == num_calls else 0))
            self._is_ending = False

    def _find_call(self) -> Generator[None, None, int]:
        """Let text through until a call may begin; the length of the white space and the marker before it."""
        source = self._input
        while True:
            if self._may_be_bare:
                lead = self._bare_lead()
                if lead == len(source.text):
                    yield
                    continue
                self._may_be_bare = False
                if source.text[lead] == "{":
                    source.position = lead
                    return lead
            start = source.text.find(self._opener)
            held = len(self._opener) if start >= 0 else self._partial_opener()
            text = source.text[: start if start >= 0 else len(source.text) - held].rstrip(SPACE)
            self._emit_text(source.drop(len(text)))
            if start >= 0:
                source.position = start - len(text) + held
                return source.position
            yield

    def _bare_lead(self) -> int:
        """Characters that may stand before a call without a marker: between calls Llama writes semicolons."""
        text = self._input.text
        if not self._follows_call:
            return len(text) - len(text.lstrip(SPACE))
        separators = _LLAMA_SEPARATORS.match(text)
        assert separators is not None
        return separators.end()

    def _partial_opener(self) -> int:
        text = self._input.text
        longest = min(len(self._opener) - 1, len(text))
        return next((n for n in range(longest, 0, -1) if self._opener.startswith(text[-n:])), 0)

    def _calls(self) -> Waiting:
        """One call, or with Mistral's lists several; the input stands where it begins."""
        if self._syntax is ToolSyntax.HERMES:
            yield from self._object()
            yield from self._input.expect(HERMES_CLOSE)
            self._accept()
        elif self._syntax is ToolSyntax.LLAMA:
            yield from self._object()
            self._may_be_bare = True
        elif (first := (yield from self._input.visible())) == "[":
            yield from self._list()
        else:
            yield from self._named(first)

    def _list(self) -> Waiting:
        character = ","
        while character == ",":
            self._is_ending = False
            yield from self._object()
            character = yield from self._input.visible()
        if character != "]":
            raise UnexpectedError
        self._accept()

    def _object(self) -> Waiting:
        """`{"name": ..., "arguments": {...}}` with its members in any order."""
        yield from self._input.expect("{")
        num_calls, name, arguments, character = self._num_calls, "", "", ","
        while character == ",":
            self._is_ending = False
            key = yield from self._input.string()
            yield from self._input.expect(":")
            if key == "name" and not name:
                name = self._known((yield from self._input.string()))
            elif key in {"arguments", "parameters"} and not arguments:
                if not name:
                    arguments = (yield from self._input.object()) if (yield from self._input.opens_object()) else "{}"
                else:
                    yield from self._arguments(name)
                    arguments = "passed on"
            elif key in {"id", "type"}:
                yield from self._input.string()
            else:
                raise UnexpectedError
            character = yield from self._input.visible()
        if character != "}" or not name:
            raise UnexpectedError
        if self._num_calls == num_calls:
            self._start(name)
            self._end(arguments or "{}")
        self._is_ending = True
        self._accept()

    def _named(self, character: str) -> Waiting:
        """`name[ARGS]{...}`, with or without an id between them."""
        name = ""
        while character in _NAME_CHARACTERS:
            name += character
            character = yield from self._input.char()
        self._known(name)
        if character == "[":
            marker = yield from self._marker()
            if marker == MISTRAL_ID:
                while (yield from self._input.char()) != "[":
                    pass
                marker = yield from self._marker()
            if marker != MISTRAL_ARGUMENTS:
                raise UnexpectedError
        else:
            self._input.position -= 1
        yield from self._arguments(name)

    def _marker(self) -> Reading:
        """The rest of what began with a bracket."""
        marker = "["
        while not marker.endswith("]"):
            if len(marker) == len(MISTRAL_ID):
                raise UnexpectedError
            marker += yield from self._input.char()
        return marker

    def _arguments(self, name: str) -> Waiting:
        """The call's arguments, piece by piece; null is a call without any."""
        if not (yield from self._input.opens_object()):
            self._start(name)
            self._end("{}")
            return
        self._start(name)
        self._is_open = True
        braces = Braces()
        while (length := braces.length(self._input.text)) is None:
            self._pass_on(self._input.drop(len(self._input.text)))
            yield
        self._end(self._input.drop(length))

    def _known(self, name: str) -> str:
        if name not in self._names:
            raise UnexpectedError
        return name

    def _accept(self) -> None:
        """Forget what was read: it is regular, and says nothing more."""
        self._input.drop(self._input.position)

    def _start(self, name: str) -> None:
        self._accept()
        self._deltas.append(CallStart(self._num_calls, f"call_{secrets.token_hex(12)}", name))
        self._num_calls += 1

    def _pass_on(self, text: str) -> None:
        if text:
            self._deltas.append(CallArguments(self._num_calls - 1, text))

    def _end(self, arguments: str) -> None:
        self._pass_on(arguments)
        self._deltas.append(CallEnd(self._num_calls - 1))
        self._is_open = False
        self._is_ending = self._follows_call = True

    def _emit_text(self, text: str) -> None:
        if not text:
            return
        self._follows_call = False
        if self._deltas and isinstance(last := self._deltas[-1], TextDelta):
            self._deltas[-1] = TextDelta(last.text + text)
        else:
            self._deltas.append(TextDelta(text))
