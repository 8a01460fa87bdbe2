"""POST /v1/responses: the events of a stream as the contract has them; `formats` writes them."""

from __future__ import annotations

import msgspec

from handler.schema.chat import ContentLogprob
from handler.schema.errors import ErrorDetail
from handler.schema.response import OutputItem, OutputText, Response


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every event has: its place in the stream."""

    sequence_number: int


class _ResponseEvent(_Event, frozen=True, kw_only=True):
    """The response as of now."""

    response: Response


class ResponseCreated(_ResponseEvent, frozen=True, kw_only=True, tag="response.created"):
    """The request has been accepted."""


class ResponseInProgress(_ResponseEvent, frozen=True, kw_only=True, tag="response.in_progress"):
    """The model works on it."""


class ResponseCompleted(_ResponseEvent, frozen=True, kw_only=True, tag="response.completed"):
    """The last event of an answer that is whole."""


class ResponseIncomplete(_ResponseEvent, frozen=True, kw_only=True, tag="response.incomplete"):
    """The last event of an answer that reached its limit."""


class ResponseFailed(_ResponseEvent, frozen=True, kw_only=True, tag="response.failed"):
    """The last event of an answer that could not be finished."""


class _ItemEvent(_Event, frozen=True, kw_only=True):
    """An item and its place in the output."""

    output_index: int
    item: OutputItem


class OutputItemAdded(_ItemEvent, frozen=True, kw_only=True, tag="response.output_item.added"):
    """An item begins."""


class OutputItemDone(_ItemEvent, frozen=True, kw_only=True, tag="response.output_item.done"):
    """An item is complete."""


class _PlacedEvent(_Event, frozen=True, kw_only=True):
    """What happens within an item."""

    item_id: str
    output_index: int


class _PartEvent(_PlacedEvent, frozen=True, kw_only=True):
    """A part of a message and its place in it."""

    content_index: int
    part: OutputText


class ContentPartAdded(_PartEvent, frozen=True, kw_only=True, tag="response.content_part.added"):
    """A part begins."""


class ContentPartDone(_PartEvent, frozen=True, kw_only=True, tag="response.content_part.done"):
    """A part is complete."""


class OutputTextDelta(_PlacedEvent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    """More text."""

    content_index: int
    delta: str
    logprobs: list[ContentLogprob]


class OutputTextDone(_PlacedEvent, frozen=True, kw_only=True, tag="response.output_text.done"):
    """The whole text."""

    content_index: int
    text: str
    logprobs: list[ContentLogprob]


class FunctionCallArgumentsDelta(_PlacedEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"):
    """More of a call's arguments."""

    delta: str


class FunctionCallArgumentsDone(_PlacedEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.done"):
    """All of a call's arguments."""

    arguments: str
    name: str


class ErrorEvent(_Event, frozen=True, kw_only=True, tag="error"):
    """Why the answer fails; `response.failed` follows."""

    code: str
    message: str
    param: str | None
    error: ErrorDetail


RESPONSE_EVENTS = (
    ResponseCreated,
    ResponseInProgress,
    ResponseCompleted,
    ResponseIncomplete,
    ResponseFailed,
    OutputItemAdded,
    OutputItemDone,
    ContentPartAdded,
    ContentPartDone,
    OutputTextDelta,
    OutputTextDone,
    FunctionCallArgumentsDelta,
    FunctionCallArgumentsDone,
    ErrorEvent,
)
