"""POST /tokenize and /detokenize: text to tokens and back, without the engine. Event loop and thread pool.

They hold no place in the queue, for they make no sequence; how many there may be at once is bounded all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from handler.admission import LARGE_BODY_BYTES
from handler.body import read_body_in_time
from handler.conversation.conversation import Conversation, TemplateOptions
from handler.conversation.messages import template_messages
from handler.conversation.rendering import render_prompt
from handler.engine.loaded import LoadedModel
from handler.errors import InvalidRequestError
from handler.formats.chat_conversation import read_tools
from handler.interruption import Deadlines, interruptible
from handler.schema.codec import convert_request, decode_object, decode_request, encode_json
from handler.schema.tokens import (
    DetokenizedText,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
    Tokens,
)
from handler.service import Service
from handler.trace import RequestTrace, trace_of

_TokenizeRequest = TokenizeTextRequest | TokenizeChatRequest
RequestT = TypeVar("RequestT", TokenizeTextRequest | TokenizeChatRequest, DetokenizeRequest)


class Direction(msgspec.Struct, Generic[RequestT], frozen=True):
    """What becomes of a body, and of its request once the model is loaded; `compute` runs in a thread."""

    decode: Callable[[bytes], RequestT]
    compute: Callable[[RequestT, LoadedModel], msgspec.Struct]


_DETOKENIZE = msgspec.json.Decoder(DetokenizeRequest)


class TokenizationEndpoint(Generic[RequestT]):
    """An ASGI application for one direction. `decode` and `compute` are those of `TOKENIZE` or `DETOKENIZE`."""

    def __init__(self, service: Service, direction: Direction[RequestT]) -> None:
        self._service = service
        self._direction: Direction[RequestT] = direction
        self._deadlines = Deadlines(service.settings.request_timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        service = self._service
        body = await read_body_in_time(scope, receive, service.settings)
        async with interruptible(receive, self._deadlines, service.admission):
            with service.admission.beside():
                answer = await self._answer(body, trace_of(scope))
        await Response(encode_json(answer), media_type="application/json")(scope, receive, send)

    async def _answer(self, body: bytes, trace: RequestTrace) -> msgspec.Struct:
        service, direction = self._service, self._direction
        is_large = len(body) > LARGE_BODY_BYTES
        asked = await service.in_thread(direction.decode, body) if is_large else direction.decode(body)
        trace.model_name = asked.model
        if asked.model is not None:
            service.check_model_name(asked.model)
        return await service.in_thread(direction.compute, asked, (await service.when_served()).model)


def _decode_tokenize(body: bytes) -> _TokenizeRequest:
    fields = decode_object(body)
    if "messages" in fields:
        return convert_request(fields, TokenizeChatRequest)
    return convert_request(fields, TokenizeTextRequest)


def _tokenize(asked: _TokenizeRequest, model: LoadedModel) -> Tokens:
    tokens = model.tokenizer.encode(_text(asked, model), add_special_tokens=asked.add_special_tokens)
    return Tokens(
        count=len(tokens),
        max_model_len=model.info.max_model_len,
        tokens=tokens,
        token_strs=[model.tokenizer.piece(token) or "" for token in tokens] if asked.return_token_strs else None,
    )


def _text(asked: _TokenizeRequest, model: LoadedModel) -> str:
    if isinstance(asked, TokenizeTextRequest):
        return asked.prompt
    if model.chat_template is None:
        raise InvalidRequestError("The model has no chat template", "messages")
    conversation = Conversation(
        messages=template_messages(asked.messages),
        tools=read_tools(asked.tools or []),
        template=TemplateOptions(
            add_generation_prompt=asked.add_generation_prompt,
            continue_final_message=bool(asked.continue_final_message),
            variables=asked.chat_template_kwargs or {},
        ),
    )
    return render_prompt(conversation, model.chat_template)


def _detokenize(asked: DetokenizeRequest, model: LoadedModel) -> DetokenizedText:
    for index, token in enumerate(asked.tokens):
        if token >= model.info.vocab_size or model.tokenizer.piece(token) is None:
            raise InvalidRequestError(f"tokens[{index}]: the vocabulary has no token {token}", f"tokens[{index}]")
    return DetokenizedText(model.tokenizer.decode(asked.tokens, skip_special_tokens=False))


TOKENIZE = Direction(_decode_tokenize, _tokenize)
DETOKENIZE = Direction(partial(decode_request, _DETOKENIZE), _detokenize)
