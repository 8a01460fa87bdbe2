"""The items that a response's output is made of, as they grow, and the events that say so. Event loop only."""

from __future__ import annotations

from handler.conversation.output import CallArguments, CallEnd, CallStart, OutputDelta, TextDelta
from handler.formats.response_events import ResponseEvents
from handler.schema.chat import ContentLogprob
from handler.schema.response import OutputFunctionCall, OutputItem, OutputMessage, OutputText
from handler.schema.response_items import ItemStatus


class OpenMessage:
    """A message that is being generated."""

    def __init__(self, item_id: str) -> None:
        self.id = item_id
        self._texts: list[str] = []
        self._logprobs: list[ContentLogprob] = []

    def add(self, text: str, logprobs: list[ContentLogprob] | None) -> None:
        """Text that came, with the log probabilities of its tokens."""
        self._texts.append(text)
        self._logprobs += logprobs or ()

    def item(self, status: ItemStatus) -> OutputMessage:
        """The message as of now; one that has just begun has no part yet."""
        content = [OutputText(text="".join(self._texts), logprobs=self._logprobs)] if self._texts else []
        return OutputMessage(id=self.id, status=status, content=content)


class OpenCall:
    """A function call that is being generated."""

    def __init__(self, item_id: str, call_id: str, name: str) -> None:
        self.id = item_id
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    def add(self, arguments: str) -> None:
        """Arguments that came."""
        self._arguments.append(arguments)

    def item(self, status: ItemStatus) -> OutputFunctionCall:
        """The call as of now."""
        arguments = "".join(self._arguments)
        return OutputFunctionCall(
            id=self.id, status=status, arguments=arguments, call_id=self._call_id, name=self._name
        )


class ResponseOutput:
    """Turns what a completion means into items. One item is open at a time; the next one or `close` ends it.

    Methods return the events of what they changed.
    """

    def __init__(self, request_id: str, events: ResponseEvents) -> None:
        self._request_id = request_id
        self._events = events
        self._done: list[OutputItem] = []
        self._open: OpenMessage | OpenCall | None = None

    def add(self, delta: OutputDelta, logprobs: list[ContentLogprob] | None) -> bytes:
        """What came next; `logprobs` are of the tokens behind a text."""
        match delta:
            case TextDelta(text):
                return self._text(text, logprobs)
            case CallStart(_, call_id, name):
                return self._begin(OpenCall(self._new_id("fc"), call_id, name))
            case CallArguments(_, arguments):
                assert isinstance(self._open, OpenCall), "calls come one after the other"
                self._open.add(arguments)
                return self._events.arguments_delta(arguments)
            case CallEnd():
                return self._end("completed")

    def close(self, status: ItemStatus, logprobs: list[ContentLogprob] | None) -> bytes:
        """The output has ended. Where nothing came it is an empty message; `logprobs` are of tokens without text.

        A call that is still open was cut off.
        """
        if isinstance(self._open, OpenCall):
            return self._end("incomplete")
        frames = b""
        if self._open is None and not self._done:
            frames = self._begin(OpenMessage(self._new_id("msg")))
        if isinstance(self._open, OpenMessage):
            self._open.add("", logprobs)
        return frames + self._end(status)

    def items(self) -> list[OutputItem]:
        """What there is; an item that never ended is incomplete."""
        return [*self._done, *([] if self._open is None else [self._open.item("incomplete")])]

    def _text(self, text: str, logprobs: list[ContentLogprob] | None) -> bytes:
        item, frames = self._open, b""
        if not isinstance(item, OpenMessage):
            item = OpenMessage(self._new_id("msg"))
            frames = self._begin(item)
        item.add(text, logprobs)
        return frames + self._events.text_delta(text, logprobs)

    def _begin(self, item: OpenMessage | OpenCall) -> bytes:
        frames = self._end("completed")
        self._open = item
        return frames + self._events.item_added(len(self._done), item.item("in_progress"))

    def _end(self, status: ItemStatus) -> bytes:
        if self._open is None:
            return b""
        item, self._open = self._open.item(status), None
        self._done.append(item)
        return self._events.item_done(len(self._done) - 1, item)

    def _new_id(self, prefix: str) -> str:
        number = len(self._done) + (self._open is not None)
        return f"{prefix}_{self._request_id}_{number}"
