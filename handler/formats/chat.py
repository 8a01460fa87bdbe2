"""POST /v1/chat/completions: a conversation becomes a prompt, a completion a message."""

from __future__ import annotations

from typing import Any

import msgspec

from handler.engine.loaded import LoadedModel
from handler.engine.tokenizer import Tokenizer
from handler.engine.types import TokenEvent
from handler.errors import InvalidRequestError, PilotlightError
from handler.formats.format import Head, Plan, choice_error
from handler.formats.logprobs import content_logprobs
from handler.generation import Choice, Generation
from handler.http_errors import error_body
from handler.params import ParamsFactory
from handler.schema.chat import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionRequest,
    ChatLogprobs,
)
from handler.schema.codec import decode_request, encode_json
from handler.sse import DONE, ChunkFrames, error_event


class ChatFormat:
    """The chat endpoint's requests and answers."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(ChatCompletionRequest)

    def decode(self, body: bytes) -> ChatCompletionRequest:
        """Validate a chat request."""
        return decode_request(self._decoder, body)

    def count_sequences(self, request: ChatCompletionRequest) -> tuple[int, str]:
        """A conversation is one prompt."""
        return request.n or 1, "n"

    def plan(self, request: ChatCompletionRequest, model: LoadedModel, factory: ParamsFactory) -> Plan:
        """Render the template, which writes all special tokens itself, and encode."""
        if model.chat_template is None:
            raise InvalidRequestError("The model has no chat template; use /v1/completions", "messages")
        text = model.chat_template.render([message.for_template() for message in request.messages])
        prompt = factory.check_prompt(model.tokenizer.encode(text, add_special_tokens=False), "messages")
        return Plan([prompt], factory.build(request, len(prompt)), request.n or 1)

    def answer(
        self, request: ChatCompletionRequest, plan: Plan, head: Head, generation: Generation, model: LoadedModel
    ) -> ChatAnswer:
        """A chat.completion, or its chunks."""
        with_usage = request.stream_options is not None and request.stream_options.include_usage
        return ChatAnswer(head, generation, model.tokenizer, with_usage=with_usage)

    def logged_prompt(self, request: ChatCompletionRequest) -> Any:
        """The messages as they came."""
        return msgspec.to_builtins(request.messages)


class ChatAnswer:
    """One conversation's completions."""

    def __init__(self, head: Head, generation: Generation, tokenizer: Tokenizer, *, with_usage: bool) -> None:
        self._head = head
        self._id = f"chatcmpl-{head.request_id}"
        self._generation = generation
        self._tokenizer = tokenizer
        self._with_usage = with_usage
        self._frames = ChunkFrames(
            {"id": self._id, "object": "chat.completion.chunk", "created": head.created, "model": head.model},
            content_key=b'"delta":{"content":',
            content_end=b"}",
            with_usage=with_usage,
        )

    def opening(self) -> bytes:
        """The role chunk of each choice."""
        role = b'"delta":{"role":"assistant","content":""}'
        return b"".join(self._frames.choice(choice.index, role) for choice in self._generation.choices)

    def event(self, choice: Choice, event: TokenEvent) -> bytes:
        """A delta with text, and an empty one with the finish reason."""
        frames = b""
        if event.text or (event.finish_reason is not None and event.logprobs is not None):
            frames = self._frames.text(choice.index, event.text, self._logprobs(choice))
        if event.finish_reason is not None:
            frames += self._frames.choice(
                choice.index,
                b'"delta":{}',
                finish_reason=choice.finish_reason,
                stop_reason=choice.stop_reason,
                error=choice_error(choice),
            )
        return frames

    def closing(self) -> bytes:
        """Usage where it was asked for, and the end."""
        return (self._frames.usage(self._generation.usage()) if self._with_usage else b"") + DONE

    def failure(self, error: PilotlightError) -> bytes:
        """The error as an event."""
        return error_event(error_body(error))

    def whole(self) -> bytes:
        """A chat.completion."""
        choices = [
            ChatChoice(
                index=choice.index,
                message=AssistantMessage(choice.text),
                logprobs=self._logprobs(choice),
                finish_reason=choice.reported_reason,
                stop_reason=choice.stop_reason,
                error=choice_error(choice) or msgspec.UNSET,
            )
            for choice in self._generation.choices
        ]
        answer = ChatCompletion(
            id=self._id,
            created=self._head.created,
            model=self._head.model,
            choices=choices,
            usage=self._generation.usage(),
        )
        return encode_json(answer)

    def _logprobs(self, choice: Choice) -> ChatLogprobs | None:
        """One entry per token since the last call, bytes included."""
        entries = choice.take_logprobs()
        if entries is None:
            return None
        return ChatLogprobs(content_logprobs(entries, self._tokenizer))
