"""From a conversation to what the engine needs: prompt tokens and grammar, and how its output is to be read."""

from __future__ import annotations

import msgspec

from handler.conversation.conversation import Conversation
from handler.conversation.output import ParserFactory
from handler.engine.loaded import LoadedModel
from handler.errors import InvalidRequestError


class ConversationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversation asks of the engine.

    Attributes:
        prompt: tokens of the rendered template, not yet checked against the model's context.
        shown_token_ids: special tokens whose text the output must have, for they mark tool calls.
        parser: makes the parser of one choice; None where all output is text.
    """

    prompt: list[int]
    shown_token_ids: tuple[int, ...] = ()
    parser: ParserFactory | None = None


def plan_conversation(conversation: Conversation, model: LoadedModel) -> ConversationPlan:
    """Render, encode, and prepare what tools need. Runs in the thread pool.

    Raises:
        InvalidRequestError: the model has no template, or it refuses the messages; a schema cannot be compiled;
            options that contradict each other.
    """
    if model.chat_template is None:
        raise InvalidRequestError("The model has no chat template; use /v1/completions", conversation.messages_param)
    text = model.chat_template.render(conversation.messages)
    return ConversationPlan(prompt=model.tokenizer.encode(text, add_special_tokens=False))
