"""POST /v1/completions: request, answer and stream chunks."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from handler.schema.errors import ErrorDetail
from handler.schema.sampling import MAX_CHOICES, MAX_TOP_LOGPROBS, CompletionFields, TokenId
from handler.schema.usage import FinishReason, Usage


class CompletionRequest(CompletionFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/completions. The prompt is a text, tokens, or a list of either."""

    prompt: Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=MAX_CHOICES * 1024)] | str
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of a text choice, in parallel lists."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True):
    """One completion of a prompt; a chunk's choice has the same form."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: ErrorDetail | msgspec.UnsetType = msgspec.UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/completions, and each SSE event of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    object: Literal["text_completion"] = "text_completion"
