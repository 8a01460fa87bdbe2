"""POST /tokenize and /detokenize: text to tokens and back, without the engine. Event loop and thread pool.

They hold no place in the queue, for they make no sequence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from handler.completions import cancelled_on_disconnect, read_body
from handler.conversation.conversation import Conversation, TemplateOptions
from handler.conversation.messages import template_messages
from handler.conversation.rendering import render_prompt
from handler.engine.loaded import LoadedModel
from handler.errors import DeadlineExceededError, InvalidRequestError
from handler.formats.chat_conversation import read_tools
from handler.schema.codec import decode_request, encode_json
from handler.schema.tokens import (
    DetokenizedText,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
    Tokens,
)
from handler.service import Service
from handler.trace import trace_of

_TokenizeRequest = TokenizeTextRequest | TokenizeChatRequest
RequestT = TypeVar("RequestT", TokenizeTextRequest | TokenizeChatRequest, DetokenizeRequest)

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(TokenizeTextRequest)
_CHAT = msgspec.json.Decoder(TokenizeChatRequest)
_DETOKENIZE = msgspec.json.Decoder(DetokenizeRequest)


class TokenizationEndpoints:
    """/tokenize and /detokenize."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tokenize(self, request: Request) -> Response:
        """Token ids of a text, or of a conversation as the chat template renders it."""
        return await self._answer(request, _decode_tokenize, _tokenize)

    async def detokenize(self, request: Request) -> Response:
        """The text of token ids."""
        return await self._answer(request, lambda body: decode_request(_DETOKENIZE, body), _detokenize)

    async def _answer(
        self,
        request: Request,
        decode: Callable[[bytes], RequestT],
        compute: Callable[[RequestT, LoadedModel], msgspec.Struct],
    ) -> Response:
        service, timeout_s = self._service, self._service.settings.request_timeout
        try:
            async with asyncio.timeout(timeout_s):
                body = await read_body(request.scope, request.receive, service.settings.max_body_bytes)
                asked = decode(body)
                trace_of(request.scope).model_name = asked.model
                if asked.model is not None:
                    service.check_model_name(asked.model)
                async with cancelled_on_disconnect(request.receive):
                    model = await service.model()
                    answer = await run_in_threadpool(compute, asked, model)
        except TimeoutError:
            raise DeadlineExceededError(f"The request took longer than {timeout_s:g} s") from None
        return Response(encode_json(answer), media_type="application/json")


def _decode_tokenize(body: bytes) -> _TokenizeRequest:
    if "messages" in decode_request(_FIELDS, body):
        return decode_request(_CHAT, body)
    return decode_request(_TEXT, body)


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
            continue_final_message=asked.continue_final_message,
            variables=asked.chat_template_kwargs or {},
        ),
    )
    return render_prompt(conversation, model.chat_template)


def _detokenize(asked: DetokenizeRequest, model: LoadedModel) -> DetokenizedText:
    for index, token in enumerate(asked.tokens):
        if token >= model.info.vocab_size or model.tokenizer.piece(token) is None:
            raise InvalidRequestError(f"tokens[{index}]: the vocabulary has no token {token}", f"tokens[{index}]")
    return DetokenizedText(model.tokenizer.decode(asked.tokens, skip_special_tokens=False))
