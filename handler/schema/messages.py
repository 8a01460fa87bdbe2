"""Messages of a conversation as they come in. Clients send an answer's message back as they got it, nulls included."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from handler.schema.tools import MAX_TOOLS, ToolCall


class TextPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text part of a message. `type` is no tag: a tagged type that stands alone decodes without its tag."""

    type: Literal["text"]
    text: str


class AssistantText(msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True):
    """A part of an assistant's message that has text."""

    text: str


class RefusalPart(msgspec.Struct, frozen=True, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    """A part of an assistant's message in which it refused."""

    refusal: str


TextContent = str | list[TextPart]


class SystemMessage(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="role", tag="system", forbid_unknown_fields=True
):
    """What the model is told about its task."""

    content: TextContent
    name: str | None = None


class DeveloperMessage(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="role", tag="developer", forbid_unknown_fields=True
):
    """What a system message is called for newer models."""

    content: TextContent
    name: str | None = None


class UserMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="role", tag="user", forbid_unknown_fields=True):
    """What the user says. Text alone: images, audio and files are refused."""

    content: TextContent
    name: str | None = None


class AssistantTurn(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="role", tag="assistant", forbid_unknown_fields=True
):
    """What the model said earlier: text, calls or both."""

    content: str | list[AssistantText | RefusalPart] | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_TOOLS)] | None = None
    refusal: str | None = None
    name: str | None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    parsed: Annotated[Any, Meta(description="What the client's library made of content; read from there.")] = None


class ToolMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="role", tag="tool", forbid_unknown_fields=True):
    """What a tool answered."""

    content: TextContent
    tool_call_id: Annotated[str, Meta(min_length=1, max_length=256)]
    name: str | None = None


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantTurn | ToolMessage
