"""Tools as chat requests describe them, and the calls that messages carry."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_TOOLS = 128

FunctionName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
Schema = Annotated[dict[str, Any], Meta(description="JSON schema of the arguments, an object.")]


class FunctionDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None
    strict: Annotated[bool, Meta(description="Arguments always obey the schema.")] | None = None


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool. Functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function by its name."""

    name: FunctionName


class NamedTool(msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True):
    """The tool that has to be called."""

    function: NamedFunction


class AllowedTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that may be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of the tools may be called, and whether one has to be."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Meta(min_length=1, max_length=MAX_TOOLS)]


class AllowedToolChoice(msgspec.Struct, frozen=True, tag_field="type", tag="allowed_tools", forbid_unknown_fields=True):
    """A choice among some of the tools."""

    allowed_tools: AllowedTools


ToolChoiceField = Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function's name, and its arguments as the model wrote them: JSON, unless it failed at that."""

    name: str
    arguments: str
    parsed_arguments: Annotated[Any, Meta(description="What the client's library made of arguments; read there.")] = (
        None
    )


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call in a message that comes in."""

    type: Literal["function"]
    id: Annotated[str, Meta(min_length=1, max_length=256)]
    function: FunctionCall
    index: int | None = None  # of a call that was collected from a stream


class GeneratedFunction(msgspec.Struct, frozen=True):
    """The function that an answer calls, and its arguments as the model wrote them."""

    name: str
    arguments: str


class GeneratedCall(msgspec.Struct, frozen=True):
    """A call of an answer."""

    id: str
    function: GeneratedFunction
    type: Literal["function"] = "function"


class FunctionDelta(msgspec.Struct, frozen=True):
    """A call's name, once, or a piece of its arguments."""

    arguments: str
    name: str | msgspec.UnsetType = msgspec.UNSET


class ToolCallDelta(msgspec.Struct, frozen=True):
    """What a chunk adds to the call of that index; the first one names it."""

    index: int
    function: FunctionDelta
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: Literal["function"] | msgspec.UnsetType = msgspec.UNSET
