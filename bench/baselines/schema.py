"""The chat endpoint's bodies as pydantic models, which FastAPI, Flask and Django share. Knows no framework.

The rules are those of `handler.schema.chat`: what a field may hold, that types are not converted into each other, and
that a field that is not declared is refused by name. What no workload asks for is not declared: tools, grammars, log
probabilities and more than one choice, with their messages. So these models have less to check than ours.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from handler.schema.sampling import MAX_NAME_LENGTH, MAX_STOP_TOKENS, MAX_STOPS

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)

StopString = Annotated[str, Field(min_length=1, max_length=1024)]
TokenId = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class TextPart(BaseModel):
    """A text part of a message."""

    model_config = _STRICT

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of the conversation."""

    model_config = _STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class StreamOptions(BaseModel):
    """What a stream carries beside tokens."""

    model_config = _STRICT

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """Body of POST /v1/chat/completions."""

    model_config = _STRICT

    model: Annotated[str, Field(max_length=MAX_NAME_LENGTH)]
    messages: Annotated[list[Message], Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None


class PromptTokensDetails(BaseModel):
    """Where prompt tokens came from."""

    cached_tokens: int
    audio_tokens: int = 0


class CompletionTokensDetails(BaseModel):
    """What completion tokens were."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(BaseModel):
    """Tokens that a request used."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class AssistantMessage(BaseModel):
    """The generated message."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(BaseModel):
    """The completion of a conversation."""

    index: int
    message: AssistantMessage
    logprobs: None = None
    finish_reason: str
    stop_reason: str | int | None = None


class ChatCompletion(BaseModel):
    """Answer of POST /v1/chat/completions."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"


class Greeting(BaseModel):
    """Answer of GET /database."""

    id: int
    message: str


class Hello(BaseModel):
    """Answer of GET /json."""

    message: str


class State(BaseModel):
    """Answer of GET /ready."""

    status: str
