"""What an answer must look like: OpenAI's `response_format`, and vLLM's fields for the same."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

FormatName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
JsonSchema = dict[str, Any]
Choices = Annotated[list[str], Meta(min_length=1)]


class TextFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Anything."""


class JsonObjectFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object. The prompt need not mention JSON."""


class NamedSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schema with what OpenAI wants to know of it. It is enforced whatever `strict` says."""

    name: FormatName
    schema: JsonSchema
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that a schema validates."""

    json_schema: NamedSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's newer form: one of these."""

    json: JsonSchema | str | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
