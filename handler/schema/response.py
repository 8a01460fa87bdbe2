"""POST /v1/responses: the answer, and the items that the events of a stream carry."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from handler.schema.chat import ContentLogprob
from handler.schema.response_items import ItemStatus, ResponseTextConfig, ResponseToolChoice


class OutputText(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    """The text of a message."""

    annotations: list[Any] = []
    logprobs: list[ContentLogprob] = []
    text: str


class OutputMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """What the model said."""

    id: str
    status: ItemStatus
    content: list[OutputText]
    role: Literal["assistant"] = "assistant"


class OutputFunctionCall(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """A function that the client should call. Its arguments are a JSON object as text."""

    id: str
    status: ItemStatus
    arguments: str
    call_id: str
    name: str


OutputItem: TypeAlias = OutputMessage | OutputFunctionCall


class InputTokensDetails(msgspec.Struct, frozen=True):
    """Where input tokens came from. Writing to the cache is not counted apart."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """What output tokens were."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that a request used."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response failed after it had begun."""

    message: str
    code: Literal["server_error"] = "server_error"


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response ended early."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseToolEcho(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """A function as the request declared it."""

    description: str | None
    name: str
    parameters: dict[str, Any] | None
    strict: bool


class ReasoningEcho(msgspec.Struct, frozen=True):
    """How the model reasons apart from its answer: it does not."""

    effort: Literal["none"] | None = None
    summary: None = None


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/responses, and what a stream's first and last events carry.

    What the request asked for is repeated with the values that were in effect.
    """

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    background: bool = False
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: None = None
    prompt_cache_key: str | None
    prompt_cache_retention: Literal["in_memory"] | None
    reasoning: ReasoningEcho
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool = False
    temperature: float
    text: ResponseTextConfig
    tool_choice: ResponseToolChoice
    tools: list[ResponseToolEcho]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]
