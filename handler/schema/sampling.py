"""Fields that say how tokens are chosen, shared by chat and text completions.

A field that is not declared is refused by name: nothing that a client asks for is ignored in silence.
Values keep the wire's names and defaults; `params.py` turns them into what the engine takes.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from handler.schema.structured import Choices, JsonSchema, StructuredOutputs
from handler.schema.unsupported import NEVER_TRUE

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_BAD_WORDS = 256
MAX_STOP_TOKENS = 1024

MAX_NAME_LENGTH = 512

StopString = Annotated[str, Meta(min_length=1, max_length=1024)]
TokenId = Annotated[int, Meta(ge=0)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries beside tokens."""

    include_usage: bool | None = None
    continuous_usage_stats: (
        Annotated[bool, Meta(description="Usage comes with the last event.", extra_json_schema=NEVER_TRUE)] | None
    ) = None
    include_obfuscation: (
        Annotated[bool, Meta(description="Events are not padded.", extra_json_schema=NEVER_TRUE)] | None
    ) = None


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields that all requests that generate share."""

    model: Annotated[str, Meta(max_length=MAX_NAME_LENGTH, description="The served model, as /v1/models lists it.")]
    temperature: Annotated[float, Meta(ge=0, le=2, description="0 takes the likeliest token.")] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, description="0 and -1 keep all tokens.")] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[dict[str, Bias], Meta(description="Added to the logits of token ids.")] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_STOP_TOKENS)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, description="No end before that many tokens.")] | None = None
    ignore_eos: bool | None = None
    bad_words: Annotated[list[StopString], Meta(max_length=MAX_BAD_WORDS, description="Never generated.")] | None = None
    include_stop_str_in_output: Annotated[bool, Meta(description="The text ends with what stopped it.")] | None = None
    skip_special_tokens: Annotated[bool, Meta(description="False: special tokens are part of the text.")] | None = None
    priority: (
        Annotated[int, Meta(ge=-(2**31), lt=2**31, description="Lower ones run first; else the order of arrival.")]
        | None
    ) = None
    stream: bool | None = None
    guided_json: Annotated[JsonSchema | str, Meta(description="A JSON schema, also as text.")] | None = None
    guided_regex: Annotated[str, Meta(description="In Rust's syntax.")] | None = None
    guided_choice: Choices | None = None
    guided_grammar: Annotated[str, Meta(description="In Lark or GBNF.")] | None = None
    structured_outputs: StructuredOutputs | None = None
    user: str | None = None
    metadata: (
        Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16, description="Kept in the log.")] | None
    ) = None


class CompletionFields(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields that chat and text completions share beside those."""

    max_tokens: Annotated[int, Meta(ge=1, description="Tokens to generate at most.")] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES, description="Completions of each prompt.")] | None = None
    stream_options: StreamOptions | None = None
