"""From a conversation to the prompt's text: tools in the template's own form, or in words where it has none."""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import TYPE_CHECKING, Any

from handler.conversation.conversation import NO_OPTIONS, Conversation, TemplateOptions, describe_tool
from handler.conversation.fallback import in_words
from handler.engine.tool_syntax import ToolSyntax
from handler.errors import InvalidRequestError

if TYPE_CHECKING:
    from handler.engine.chat_template import ChatTemplate

Message = dict[str, Any]

_RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})
_MISTRAL = (ToolSyntax.MISTRAL_LIST, ToolSyntax.MISTRAL_NAMED)
_MISTRAL_ID = re.compile("[a-zA-Z0-9]{9}")


def render_prompt(conversation: Conversation, template: ChatTemplate) -> str:
    """The prompt.

    Raises:
        InvalidRequestError: the template refuses the conversation, or options contradict each other.
    """
    options, messages = conversation.template, conversation.messages
    add_generation_prompt, open_end = True, None
    if options is not NO_OPTIONS:
        add_generation_prompt = _adds_generation_prompt(options, template)
        if options.continue_final_message:
            messages, open_end = _open_final_message(messages, conversation.messages_param)
    tools = conversation.tools if conversation.tool_choice.mode != "none" else ()
    described = None
    if template.tool_syntax is None:
        messages = in_words(messages, tools, knows_system_role=template.knows_system_role)
    else:
        messages = _in_template_form(messages, template.tool_syntax)
        described = [describe_tool(tool) for tool in tools] or None
    try:
        text = template.render(
            messages, tools=described, add_generation_prompt=add_generation_prompt, variables=options.variables
        )
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error), conversation.messages_param) from error
    return text if open_end is None else _cut(text, open_end, conversation.messages_param)


def _adds_generation_prompt(options: TemplateOptions, template: ChatTemplate) -> bool:
    """Whether it does, where the options make sense."""
    _check_variables(options.variables, template)
    if options.add_generation_prompt is None:
        return not options.continue_final_message
    if options.continue_final_message and options.add_generation_prompt:
        raise InvalidRequestError(
            "continue_final_message and add_generation_prompt exclude each other", "continue_final_message"
        )
    return options.add_generation_prompt


def _check_variables(variables: dict[str, Any], template: ChatTemplate) -> None:
    for name in variables:
        param = f"chat_template_kwargs.{name}"
        if name in _RESERVED:
            raise InvalidRequestError(f"{param}: {name} is a field of the request itself", param)
        if name not in template.variables:
            raise InvalidRequestError(f"{param}: the model's chat template has no variable {name!r}", param)


def _open_final_message(messages: list[Message], param: str) -> tuple[list[Message], str]:
    """The messages with a mark where the last one is left open, and the mark, as transformers does it."""
    last = messages[-1]
    if last["role"] != "assistant":
        raise InvalidRequestError(
            "continue_final_message continues the assistant's message, so the last one must be the assistant's", param
        )
    if last.get("tool_calls"):
        raise InvalidRequestError("continue_final_message continues text, and the last message has tool calls", param)
    mark = f"{uuid.uuid4().hex} "
    return [*messages[:-1], last | {"content": last["content"] + mark}], mark


def _cut(text: str, mark: str, param: str) -> str:
    """What stands before the mark; a template that trims messages has eaten its space, and trims this one too."""
    before, found, after = text.rpartition(mark.rstrip())
    if not found:
        raise InvalidRequestError("The model's chat template does not show the last message", param)
    return before if after.startswith(" ") else before.rstrip()


def _in_template_form(messages: list[Message], syntax: ToolSyntax) -> list[Message]:
    """Results named after the function they come from, and call ids as the template takes them."""
    names: dict[str, str] = {}
    shaped = []
    for message in messages:
        changed: Message = {}
        if "tool_calls" in message:
            names |= {call["id"]: call["function"]["name"] for call in message["tool_calls"]}
            changed["tool_calls"] = [call | {"id": _template_id(call["id"], syntax)} for call in message["tool_calls"]]
        elif message["role"] == "tool":
            call_id = message["tool_call_id"]
            changed["tool_call_id"] = _template_id(call_id, syntax)
            if call_id in names:
                changed["name"] = names[call_id]
        shaped.append(message | changed)
    return shaped


def _template_id(call_id: str, syntax: ToolSyntax) -> str:
    """Mistral's ids are nine letters and digits; of any other id, nine that are always the same."""
    if syntax not in _MISTRAL or _MISTRAL_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]
