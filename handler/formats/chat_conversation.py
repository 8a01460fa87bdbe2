"""A chat request as a conversation: its tools and which of them may be called, with the checks between fields."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from handler.conversation.conversation import NO_OPTIONS, Conversation, TemplateOptions, Tool, ToolChoice
from handler.conversation.messages import check_calls, template_messages
from handler.errors import InvalidRequestError
from handler.schema.chat import ChatCompletionRequest
from handler.schema.tools import AllowedTool, AllowedToolChoice, FunctionTool, NamedTool, ToolChoiceField
from handler.structured import STRUCTURE_FIELDS, grammar_spec

_AUTO = ToolChoice()
_SELDOM_SET_FIELDS = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    *STRUCTURE_FIELDS,
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
)
_SELDOM_SET = attrgetter(*_SELDOM_SET_FIELDS)
_NONE_SET = (None,) * len(_SELDOM_SET_FIELDS)


def is_plain(request: ChatCompletionRequest) -> bool:
    """Whether nothing but messages says what the conversation is, as with most requests."""
    return _SELDOM_SET(request) == _NONE_SET


def conversation_of(request: ChatCompletionRequest) -> Conversation:
    """What the request asks of a model.

    Raises:
        InvalidRequestError: messages that templates cannot have, calls and results that do not belong together, or a
            choice of tools that are not there.
    """
    messages = template_messages(request.messages)
    check_calls(request.messages)
    if is_plain(request):
        return Conversation(messages=messages)
    choice, tools = _choose(request.tool_choice, read_tools(request.tools) if request.tools else ())
    output, output_param = grammar_spec(request, request.response_format) or (None, "response_format")
    return Conversation(
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        output=output,
        output_param=output_param,
        template=_options(request),
    )


def _options(request: ChatCompletionRequest) -> TemplateOptions:
    add, continues, variables = (
        request.add_generation_prompt,
        request.continue_final_message,
        request.chat_template_kwargs,
    )
    if add is None and not continues and not variables:
        return NO_OPTIONS
    return TemplateOptions(add_generation_prompt=add, continue_final_message=bool(continues), variables=variables or {})


def read_tools(declared: Iterable[FunctionTool]) -> tuple[Tool, ...]:
    """The tools, no two of one name."""
    tools: dict[str, Tool] = {}
    for index, declaration in enumerate(declared):
        function, param = declaration.function, f"tools[{index}].function"
        if function.name.endswith("\n"):  # which the schema's pattern lets pass
            raise InvalidRequestError(f"{param}.name: a line's end is no part of a name", f"{param}.name")
        if function.name in tools:
            raise InvalidRequestError(
                f"{param}.name: another tool has the name {function.name!r} already", f"{param}.name"
            )
        tools[function.name] = Tool(
            name=function.name,
            description=function.description,
            parameters=function.parameters,
            strict=bool(function.strict),
            param=f"{param}.parameters",
        )
    return tuple(tools.values())


def _choose(asked: ToolChoiceField | None, tools: tuple[Tool, ...]) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """How tools may be called, and those that may be."""
    if asked is None or asked == "none" or asked == "auto":  # noqa: PLR1714  (other choices have no hash)
        return (_AUTO if asked is None else ToolChoice(asked)), tools
    if not tools:
        raise InvalidRequestError("tool_choice asks for a call, and there are no tools", "tool_choice")
    if isinstance(asked, NamedTool):
        _check_name(asked, tools, "tool_choice")
        return ToolChoice("named", asked.function.name), tools
    if isinstance(asked, AllowedToolChoice):
        allowed = asked.allowed_tools
        for index, named in enumerate(allowed.tools):
            _check_name(named, tools, f"tool_choice.allowed_tools.tools[{index}]")
        names = {named.function.name for named in allowed.tools}
        return ToolChoice(allowed.mode), tuple(tool for tool in tools if tool.name in names)
    return ToolChoice("required"), tools


def _check_name(named: NamedTool | AllowedTool, tools: tuple[Tool, ...], param: str) -> None:
    name, path = named.function.name, f"{param}.function.name"
    if all(tool.name != name for tool in tools):
        raise InvalidRequestError(f"{path}: there is no tool {name!r} among the tools", path)
