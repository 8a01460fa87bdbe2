"""A chat request before anything is tokenized: bytes to a struct, the checks behind it, and refusals."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bench.stub_model import stub_model
from handler.conversation.conversation import Conversation
from handler.engine.sampling_params import SamplingParams
from handler.errors import InvalidRequestError
from handler.formats.chat import ChatFormat
from handler.formats.chat_conversation import conversation_of
from handler.params import ParamsFactory
from handler.schema.chat import ChatCompletionRequest

_TURNS = (
    {"role": "system", "content": "You are a helpful assistant who answers in short sentences."},
    {"role": "user", "content": "Why do we see the same side of the moon from the earth?"},
    {"role": "assistant", "content": "Because it turns once about itself in the time of one turn about the earth."},
    {"role": "user", "content": 'And who saw the other side first? Answer as {"year": ..., "who": ...}.\n' * 4},
)
BODY = msgspec.json.encode(
    {
        "model": "stub",
        "messages": _TURNS,
        "max_tokens": 256,
        "temperature": 0.7,
        "top_p": 0.95,
        "stop": ["\n\n", "User:"],
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "someone",
    }
)
"""A conversation of four turns, streamed, with the sampling fields that clients set most."""

PROMPT_TOKENS = 200

_MESSAGE = b'{"role":"user","content":"hello"}'
BAD_BODIES: tuple[tuple[bytes, str | None], ...] = (
    (b'{"model":"stub","messages":[' + _MESSAGE, None),
    (b'{"model":"stub"}', "messages"),
    (b'{"model":"stub","messages":[]}', "messages"),
    (b'{"model":"stub","messages":[{"role":"wizard","content":"hello"}]}', "messages[0].role"),
    (b'{"model":"stub","messages":[' + _MESSAGE + b'],"temperature":9}', "temperature"),
    (b'{"model":"stub","messages":[' + _MESSAGE + b'],"max_tokens":"many"}', "max_tokens"),
    (b'{"model":"stub","messages":[' + _MESSAGE + b'],"colour":"red"}', "colour"),
    (b'{"model":"stub","messages":[' + _MESSAGE + b'],"seed":1,"seed":2}', "seed"),
)
"""Bodies that are refused, each with the field that the refusal names."""


def decode() -> Callable[[], ChatCompletionRequest]:
    """Bytes to a validated request."""
    chat = ChatFormat()
    return lambda: chat.decode(BODY)


def validation() -> Callable[[], tuple[Conversation, SamplingParams]]:
    """The checks between fields, and those that need the model."""
    model = stub_model()
    factory = ParamsFactory(
        model.info, model.defaults, model.tokenizer, default_max_tokens=None, default_temperature=None
    )
    request = ChatFormat().decode(BODY)
    prompt = list(range(PROMPT_TOKENS))

    def check() -> tuple[Conversation, SamplingParams]:
        conversation = conversation_of(request)
        return conversation, factory.build(request, len(factory.check_prompt(prompt, "messages")))

    return check


def refusal() -> Callable[[], list[str | None]]:
    """The fields that the refusals of bad bodies name."""
    chat = ChatFormat()
    return lambda: [_refused_field(chat, body) for body, _ in BAD_BODIES]


def _refused_field(chat: ChatFormat, body: bytes) -> str | None:
    try:
        chat.decode(body)
    except InvalidRequestError as error:
        return error.param
    raise AssertionError(f"taken: {body!r}")
