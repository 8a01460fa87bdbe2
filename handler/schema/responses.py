"""POST /v1/responses: the request. Nothing is stored here, so each request brings its whole conversation.

Fields of OpenAI's that only null can fill are refused with the reason in their description (`unsupported`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from handler.schema.response_items import (
    InputItem,
    ResponseFunctionTool,
    ResponseTextConfig,
    ResponseToolChoice,
)
from handler.schema.sampling import MAX_TOP_LOGPROBS, SamplingFields
from handler.schema.tools import MAX_TOOLS
from handler.schema.unsupported import NEVER_TRUE

LOGPROBS = "message.output_text.logprobs"

NothingStored = Annotated[
    None, Meta(description="Nothing is stored here: send the conversation's earlier items in `input`.")
]
NoStoredPrompts = Annotated[None, Meta(description="No prompts are stored here: send the text in `instructions`.")]
NoContextManagement = Annotated[None, Meta(description="The input is never compacted: send what should be read.")]
NoBuiltinTools = Annotated[None, Meta(description="There are no built-in tools; functions run at the client.")]
NoModeration = Annotated[None, Meta(description="Nothing is moderated here.")]
NoCachePolicy = Annotated[None, Meta(description="Prompts are cached as memory allows, for no stated time.")]
NoImages = Annotated[None, Meta(description="The model takes and makes text only.")]
NoPrograms = Annotated[None, Meta(description="There are no access programs here.")]


class ResponseStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries beside events."""

    include_obfuscation: (
        Annotated[bool, Meta(description="Events are not padded.", extra_json_schema=NEVER_TRUE)] | None
    ) = None


class ResponseReasoning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The served model does not reason apart from its answer, so this can only say so."""

    effort: Literal["none"] | None = None
    summary: None = None
    generate_summary: None = None
    context: None = None
    mode: None = None


class ResponseRequest(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/responses."""

    input: Annotated[list[InputItem], Meta(min_length=1)] | str
    instructions: Annotated[str, Meta(description="A system message before the input.")] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, description="Tokens to generate at most.")] | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[ResponseFunctionTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: ResponseTextConfig | None = None
    stream_options: ResponseStreamOptions | None = None
    safety_identifier: Annotated[str, Meta(max_length=128, description="Echoed, and not kept.")] | None = None
    prompt_cache_key: Annotated[str, Meta(description="Echoed; equal beginnings are found anyhow.")] | None = None
    prompt_cache_retention: (
        Annotated[Literal["in_memory"], Meta(description="Prompts are cached as memory allows.")] | None
    ) = None
    service_tier: (
        Annotated[Literal["auto", "default"], Meta(description="There is one tier, which answers as default.")] | None
    ) = None
    truncation: Annotated[Literal["disabled"], Meta(description="What was sent is read whole or refused.")] | None = (
        None
    )
    reasoning: ResponseReasoning | None = None
    store: Annotated[bool, Meta(description="Nothing is stored here.", extra_json_schema=NEVER_TRUE)] | None = None
    background: (
        Annotated[
            bool, Meta(description="Nothing is stored: an answer goes to who asks.", extra_json_schema=NEVER_TRUE)
        ]
        | None
    ) = None
    previous_response_id: NothingStored = None
    conversation: NothingStored = None
    prompt: NoStoredPrompts = None
    context_management: NoContextManagement = None
    max_tool_calls: NoBuiltinTools = None
    moderation: NoModeration = None
    prompt_cache_options: NoCachePolicy = None
    image: NoImages = None
    access_programs: NoPrograms = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's text comes with log probabilities."""
        return LOGPROBS in (self.include or ())
