"""From a conversation to what the engine needs: prompt tokens and grammar, and how its output is to be read."""

from __future__ import annotations

from functools import partial

import msgspec

from handler.conversation.call_grammar import CallGrammar, arguments_schema
from handler.conversation.call_parser import CallParser
from handler.conversation.conversation import Conversation, Tool
from handler.conversation.markers import MARKERS
from handler.conversation.output import ParserFactory
from handler.conversation.rendering import render_prompt
from handler.engine.grammar import Grammar, GrammarSpec
from handler.engine.loaded import LoadedModel
from handler.engine.tool_syntax import ToolSyntax
from handler.errors import InvalidRequestError


class ConversationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversation asks of the engine.

    Attributes:
        prompt: tokens of the rendered template, not yet checked against the model's context.
        grammar: what the completion has to obey.
        grammar_param: the field that asks for it, for errors.
        shown_token_ids: special tokens whose text the output must have, for they mark tool calls.
        parser: makes the parser of one choice; None where all output is text.
    """

    prompt: list[int]
    grammar: Grammar | None = None
    grammar_param: str = ""
    shown_token_ids: tuple[int, ...] = ()
    parser: ParserFactory | None = None


def plan_conversation(conversation: Conversation, model: LoadedModel) -> ConversationPlan:
    """Render, encode, and prepare what tools need. Runs in the thread pool.

    Raises:
        InvalidRequestError: the model has no template, or it refuses the messages; a schema cannot be compiled;
            options that contradict each other.
    """
    template, tokenizer = model.chat_template, model.tokenizer
    if template is None:
        raise InvalidRequestError("The model has no chat template; use /v1/completions", conversation.messages_param)
    text = render_prompt(conversation, template)
    model.check_length(text, conversation.messages_param)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    choice = conversation.tool_choice
    if not conversation.tools or choice.mode == "none":
        spec = conversation.output
        grammar = None if spec is None else model.grammars.compile(spec, conversation.output_param)
        return ConversationPlan(prompt=prompt, grammar=grammar, grammar_param=conversation.output_param)
    syntax = template.tool_syntax or ToolSyntax.HERMES
    markers = (tokenizer.special_token_id(marker) for marker in MARKERS[syntax])
    return ConversationPlan(
        prompt=prompt,
        grammar=_call_grammar(conversation, syntax, model),
        grammar_param=_asks_for_grammar(conversation),
        shown_token_ids=tuple(token_id for token_id in markers if token_id is not None),
        parser=partial(
            CallParser,
            syntax,
            frozenset(tool.name for tool in conversation.tools),
            reports_calls=choice.mode != "named",  # as OpenAI: who names the function knows what comes
        ),
    )


def _call_grammar(conversation: Conversation, syntax: ToolSyntax, model: LoadedModel) -> Grammar | None:
    """What holds the model to calls that can be answered; None where it is free to call, and to call wrongly."""
    tools, choice = conversation.tools, conversation.tool_choice
    if choice.mode == "named":
        tools = tuple(tool for tool in tools if tool.name == choice.name)
        assert tools, "the request's own check finds a name that is not among the tools"
    is_single = choice.mode == "named" or not conversation.parallel_tool_calls
    grammar = CallGrammar(syntax, tools, model.tokenizer, at_most_one=is_single)
    if choice.mode != "auto":
        return _compile(grammar.forced(), tools, model)
    strict = tuple(tool for tool in tools if tool.strict)
    if conversation.output is not None:
        return _compile(grammar.beside(conversation.output, conversation.output_param), strict, model, conversation)
    return _compile(grammar.free(), strict, model) if strict or is_single else None


def _asks_for_grammar(conversation: Conversation) -> str:
    """The field to name where a call's grammar contradicts others."""
    if conversation.tool_choice.mode != "auto":
        return "tool_choice"
    if conversation.output is not None:
        return conversation.output_param
    return "tools" if conversation.parallel_tool_calls else "parallel_tool_calls"


def _compile(
    spec: GrammarSpec, tools: tuple[Tool, ...], model: LoadedModel, conversation: Conversation | None = None
) -> Grammar:
    """The grammar of several parts; if it cannot be compiled, the part at fault is named."""
    try:
        return model.grammars.compile(spec, "tools")
    except InvalidRequestError:
        for tool in tools:
            schema = msgspec.json.encode(arguments_schema(tool)).decode()
            model.grammars.compile(GrammarSpec("json_schema", schema), tool.param)
        if conversation is not None and conversation.output is not None:
            model.grammars.compile(conversation.output, conversation.output_param)
        raise
