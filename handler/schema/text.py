"""POST /v1/completions: request, answer and stream chunks."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from handler.schema.errors import ErrorDetail
from handler.schema.extensions import ExtensionFields
from handler.schema.sampling import MAX_CHOICES, MAX_TOP_LOGPROBS, TokenId
from handler.schema.usage import FinishReason, Usage

NoInfilling = Annotated[None, Meta(description="The model goes on with a text; it fills no gaps.")]
NoEmbeddings = Annotated[None, Meta(description="Prompts are texts or tokens.")]


class CompletionRequest(ExtensionFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/completions. The prompt is a text, tokens, or a list of either."""

    prompt: (
        Annotated[
            list[str | TokenId | Annotated[list[TokenId], Meta(min_length=1)]],
            Meta(min_length=1, max_length=MAX_CHOICES * 1024),
        ]
        | str
    )
    max_tokens: (
        Annotated[int, Meta(ge=0, description="Tokens to generate at most; 0 computes the prompt only.")] | None
    ) = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: Annotated[bool, Meta(description="The text begins with the prompt, and so do its logprobs.")] | None = None
    best_of: (
        Annotated[
            int,
            Meta(
                ge=1, le=MAX_CHOICES, description="Completions of which the n with the likeliest tokens are returned."
            ),
        ]
        | None
    ) = None
    add_special_tokens: (
        Annotated[bool, Meta(description="False: a text's tokens are its own only, with no beginning added.")] | None
    ) = None
    suffix: NoInfilling = None
    prompt_embeds: NoEmbeddings = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of a text choice, in parallel lists. The first token of an echoed prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
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
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    object: Literal["text_completion"] = "text_completion"
