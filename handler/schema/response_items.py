"""POST /v1/responses: the items of a conversation as they come in, and what may call a tool.

Items that an answer gave can be sent back as they came, and are logged so. A field that is null here in OpenAI's own
answers has only that value. Kinds of items, parts and tools that OpenAI has and we have not are refused with a reason
in `response_refusals`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from handler.schema.structured import FormatName, JsonObjectFormat, JsonSchema, TextFormat

FunctionName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$(?!\n)")]  # `$` alone lets a line end through
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputText(
    msgspec.Struct, frozen=True, tag_field="type", tag="input_text", forbid_unknown_fields=True, omit_defaults=True
):
    """A text part of a message."""

    text: str
    prompt_cache_breakpoint: None = None


class OutputTextInput(
    msgspec.Struct, frozen=True, tag_field="type", tag="output_text", forbid_unknown_fields=True, omit_defaults=True
):
    """A text part of an answer that is sent back."""

    text: str
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None  # models know no citations
    logprobs: list[dict[str, Any]] | None = None  # what an earlier answer reported; the model never sees it


class RefusalInput(
    msgspec.Struct, frozen=True, tag_field="type", tag="refusal", forbid_unknown_fields=True, omit_defaults=True
):
    """What a model said instead of an answer."""

    refusal: str

    @property
    def text(self) -> str:
        """What the assistant said."""
        return self.refusal


MessagePart: TypeAlias = InputText | OutputTextInput | RefusalInput


class MessageItem(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="message",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """A message. Its `type` may be left out."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[MessagePart]
    id: str | None = None
    status: ItemStatus | None = None
    phase: None = None


class FunctionCallItem(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="function_call",
    forbid_unknown_fields=True,
    rename={"is_async": "async"},
    omit_defaults=True,
):
    """A function that the model called."""

    call_id: Annotated[str, Meta(min_length=1)]
    name: FunctionName
    arguments: Annotated[str, Meta(description="A JSON object.")]
    id: str | None = None
    status: ItemStatus | None = None
    caller: None = None
    namespace: None = None
    is_async: None = None


class ReturnedText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A text part of what a function returned."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: None = None


class FunctionCallOutputItem(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="function_call_output",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """What a called function returned."""

    call_id: Annotated[str, Meta(min_length=1)]
    output: str | list[ReturnedText]
    id: str | None = None
    status: ItemStatus | None = None
    caller: None = None
    name: FunctionName | None = None
    namespace: None = None


InputItem: TypeAlias = MessageItem | FunctionCallItem | FunctionCallOutputItem


class ResponseFunctionTool(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"is_async": "async"}
):
    """A function that the model may call. `type` is no tag: a type that stands alone is decoded without its tag too."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: Annotated[dict[str, Any], Meta(description="A JSON schema.")] | None = None
    strict: bool | None = None
    allowed_callers: None = None
    defer_loading: None = None
    is_async: None = None
    output_schema: None = None


class ResponseToolChoiceFunction(
    msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True
):
    """This function and no other."""

    name: FunctionName


class ResponseAllowedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that may be called."""

    type: Literal["function"]
    name: FunctionName


class ResponseToolChoiceAllowed(
    msgspec.Struct, frozen=True, tag_field="type", tag="allowed_tools", forbid_unknown_fields=True
):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ResponseAllowedTool], Meta(min_length=1)]


ResponseToolChoice: TypeAlias = (
    Literal["none", "auto", "required"] | ResponseToolChoiceFunction | ResponseToolChoiceAllowed
)


class TextFormatSchema(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="json_schema", forbid_unknown_fields=True
):
    """JSON that a schema validates. It is enforced whatever `strict` says."""

    name: FormatName
    schema: JsonSchema
    description: str | None = None
    strict: bool | None = None


class ResponseTextConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the text of an answer looks like."""

    format: TextFormat | JsonObjectFormat | TextFormatSchema | None = None
    verbosity: Literal["medium"] | None = None
