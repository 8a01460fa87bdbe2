"""What is asked of a model that talks: messages, tools and how it may use them. Knows no wire format."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from handler.engine.grammar import GrammarSpec


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call.

    Attributes:
        name: 1 to 64 characters of [a-zA-Z0-9_-].
        description: what it does, None if the request says nothing.
        parameters: the JSON schema of its arguments, an object; None for a function without any.
        strict: arguments must obey the schema even where the model is free to call or not.
        param: the path of its parameters in the request, for errors.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False
    param: str


class ToolChoice(msgspec.Struct, frozen=True):
    """`auto`: the model may call. `required`: it calls at least once. `named`: it calls the function `name` once."""

    mode: Literal["none", "auto", "required", "named"] = "auto"
    name: str | None = None


class TemplateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the template is rendered.

    Attributes:
        add_generation_prompt: end with the head of the model's answer; None is true, unless a message is continued.
        continue_final_message: leave the last message open, which is the assistant's, and let the model go on with it.
        variables: further variables of the template, `chat_template_kwargs` in requests.
    """

    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    variables: dict[str, Any] = {}


NO_OPTIONS = TemplateOptions()
"""Of most conversations."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a chat model.

    Attributes:
        messages: as templates know them. `role` is system, user, assistant or tool; `content` a string; an assistant's
            `tool_calls` are `{"id", "type": "function", "function": {"name", "arguments"}}` with arguments as an
            object, and the key is missing where it made none; a tool's message has `tool_call_id`.
        messages_param: where the messages stand in the request, for errors.
        tools: those that may be called; what `allowed_tools` leaves out is not among them.
        tool_choice: how they may be called; without tools it says nothing.
        parallel_tool_calls: whether one answer may have several calls.
        output: what text must obey; None for any text. A call that is forced leaves no room for text.
        output_param: where that stands in the request, for errors.
        template: options of the template.
    """

    messages: list[dict[str, Any]]
    messages_param: str = "messages"
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    output: GrammarSpec | None = None
    output_param: str = "response_format"
    template: TemplateOptions = NO_OPTIONS


def describe_tool(tool: Tool) -> dict[str, Any]:
    """A tool as templates take it: as OpenAI's requests describe it."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}
