"""POST /tokenize and /detokenize, in vLLM's form: a text or a conversation becomes token ids, and token ids a text."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from handler.schema.messages import ChatMessage
from handler.schema.sampling import MAX_NAME_LENGTH, TokenId
from handler.schema.tools import MAX_TOOLS, FunctionTool

ModelName = Annotated[str, Meta(max_length=MAX_NAME_LENGTH, description="The served model; may be left out.")]


class TokenizeTextRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /tokenize with a text."""

    prompt: str
    model: ModelName | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class TokenizeChatRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /tokenize with a conversation, which the chat template renders; it writes special tokens itself."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: ModelName | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool = False
    return_token_strs: bool | None = None


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST /tokenize. `token_strs` are the entries of the vocabulary, where they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /detokenize."""

    tokens: list[TokenId]
    model: ModelName | None = None


class DetokenizedText(msgspec.Struct, frozen=True):
    """Answer of POST /detokenize, special tokens included."""

    prompt: str
