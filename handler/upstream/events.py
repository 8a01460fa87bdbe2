"""A stream of server-sent events on its way through: where each ends, and what it says of tokens. Pure.

Events pass as they are. Only what the log and the metrics need is read: usage, finish reasons, and what was generated.
`stream_options.include_usage` is asked for on behalf of the log; the event that answers it goes no further where the
client had not asked.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

_END = b"\n\n"
_DATA = b"data:"
_DONE = b"[DONE]"
_LAST_TYPES = frozenset(("response.completed", "response.incomplete", "response.failed"))


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens as servers count them, by the names of the completions API and of the Responses API."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    input_tokens_details: _PromptDetails | None = None

    @property
    def of_prompt(self) -> int | None:
        """Tokens of the prompt."""
        return self.input_tokens if self.prompt_tokens is None else self.prompt_tokens

    @property
    def of_completion(self) -> int | None:
        """Tokens generated."""
        return self.output_tokens if self.completion_tokens is None else self.completion_tokens

    @property
    def of_cache(self) -> int | None:
        """Tokens of the prompt that the server had computed before."""
        details = self.prompt_tokens_details or self.input_tokens_details
        return None if details is None else details.cached_tokens


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None
    text: str | None = None
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None

    @property
    def content(self) -> str:
        """The text in it, however it is called there."""
        content = self.text or (self.delta or self.message or {}).get("content")
        return content if isinstance(content, str) else ""


class _Content(msgspec.Struct):
    text: str | None = None


class _Item(msgspec.Struct):
    type: str | None = None
    content: list[_Content] = []


class _Response(msgspec.Struct):
    usage: Usage | None = None


class Part(msgspec.Struct):
    """A whole answer, or one event of a stream, as far as it is looked at."""

    choices: list[_Choice] | None = None
    usage: Usage | None = None
    type: str | None = None
    delta: Any = None
    response: _Response | None = None
    output: Any = None

    @property
    def tokens(self) -> Usage | None:
        """What was used so far, where it says."""
        return self.usage or (None if self.response is None else self.response.usage)

    @property
    def has_text(self) -> bool:
        """Whether something was generated for it."""
        if self.type is not None:
            return self.type.endswith(".delta") and bool(self.delta)
        return any(choice.text or _says_something(choice.delta) for choice in self.choices or ())

    @property
    def texts(self) -> list[tuple[int, str]]:
        """What was generated, with the choice that it belongs to; of a response there is one."""
        if self.type == "response.output_text.delta":
            return [(0, str(self.delta))]
        if self.output is not None:
            return [(0, text) for text in _texts_in(self.output)]
        return [(choice.index, choice.content) for choice in self.choices or ()]

    @property
    def finish_reason(self) -> str | None:
        """Of the first choice that has one."""
        return next((each.finish_reason for each in self.choices or () if each.finish_reason), None)

    @property
    def is_last(self) -> bool:
        """Whether it ends a response, which no `[DONE]` does."""
        return self.type in _LAST_TYPES

    @property
    def is_usage_alone(self) -> bool:
        """Whether it is the event that `include_usage` asks for."""
        return self.choices == [] and self.usage is not None


def _texts_in(output: Any) -> list[str]:
    """Those of a response's messages, and of nothing that is not what it should be."""
    try:
        messages = msgspec.convert(output, list[_Item])
    except msgspec.ValidationError:
        return []
    return [each.text or "" for item in messages if item.type == "message" for each in item.content]


class Completion:
    """What was generated in all, part by part."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}

    def add(self, part: Part) -> None:
        """The next one."""
        for index, text in part.texts:
            self._texts.setdefault(index, []).append(text)

    def text(self) -> str | None:
        """As the log has it: that of the choice, or a JSON array of those of several; None without any."""
        texts = ["".join(parts) for _, parts in sorted(self._texts.items())]
        if len(texts) > 1:
            return orjson.dumps(texts).decode()
        return texts[0] if texts else None


def _says_something(delta: dict[str, Any] | None) -> bool:
    return delta is not None and any(
        delta.get(field) for field in ("content", "reasoning", "reasoning_content", "tool_calls")
    )


_decoder = msgspec.json.Decoder(Part)


def read_part(body: bytes) -> Part | None:
    """What there is to know of an answer or an event; None where it is something else."""
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError:
        return None


class EventSplitter:
    """Cuts a stream into whole events."""

    def __init__(self) -> None:
        self._rest = b""

    def push(self, data: bytes) -> list[bytes]:
        """The events that are complete now, each with the empty line that ends it."""
        *events, self._rest = (self._rest + data.replace(b"\r\n", b"\n")).split(_END)
        return [event + _END for event in events]


def data_of(event: bytes) -> bytes:
    """The data of an event, its lines joined; empty for a comment."""
    return b"\n".join(line[len(_DATA) :].strip() for line in event.split(b"\n") if line.startswith(_DATA))


def is_end(data: bytes) -> bool:
    """Whether the stream ends with it."""
    return data == _DONE


def with_usage(fields: dict[str, Any]) -> bytes:
    """The body of a streamed request that asks for usage as well."""
    options = fields.get("stream_options") or {}
    return orjson.dumps(fields | {"stream_options": options | {"include_usage": True}})
