"""POST /v1/chat/completions: a conversation becomes a prompt, a completion a message."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import msgspec

from handler.choice import Choice
from handler.conversation.output import (
    CallArguments,
    CallStart,
    OutputDelta,
    OutputParser,
    ParserFactory,
    TextDelta,
    parse_whole,
)
from handler.conversation.planning import plan_conversation
from handler.demand import Demand
from handler.engine.events import TokenEvent
from handler.engine.loaded import LoadedModel
from handler.engine.tokenizer import Tokenizer
from handler.errors import InvalidRequestError, PilotlightError
from handler.formats.chat_conversation import conversation_of, is_plain
from handler.formats.chat_text import is_text_alone, text_answer
from handler.formats.format import Head, Plan, choice_error, reason_of
from handler.formats.logprobs import content_logprobs
from handler.generation import Generation
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
from handler.schema.refusals import explain
from handler.schema.tools import FunctionDelta, GeneratedCall, GeneratedFunction, ToolCallDelta
from handler.schema.usage import FinishReason as ReportedReason
from handler.sse import DONE, ChunkFrames, error_event
from handler.structured import check_compatible, grammar_spec

_TIER: Literal["default"] = "default"


class ChatFormat:
    """The chat endpoint's requests and answers."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(ChatCompletionRequest)

    def decode(self, body: bytes) -> ChatCompletionRequest:
        """Validate a chat request."""
        try:
            return decode_request(self._decoder, body)
        except InvalidRequestError as error:
            raise explain(error) from error

    def demand(self, request: ChatCompletionRequest) -> Demand:
        """A conversation is one prompt."""
        limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        return Demand(completions=request.n or 1, param="n", max_tokens=limit, priority=request.priority or 0)

    def is_light(self, request: ChatCompletionRequest) -> bool:
        """Nothing is compiled, and no tools are described."""
        return is_plain(request) or (not request.tools and grammar_spec(request, request.response_format) is None)

    def plan(self, request: ChatCompletionRequest, model: LoadedModel, factory: ParamsFactory) -> Plan:
        """Render the template, which writes all special tokens itself, and encode."""
        planned = plan_conversation(conversation_of(request), model)
        if planned.grammar is not None:
            check_compatible(request, planned.grammar_param)
        prompt = factory.check_prompt(planned.prompt, "messages")
        params = factory.build(request, len(prompt), planned.grammar)
        if planned.shown_token_ids:
            params = msgspec.structs.replace(params, shown_token_ids=planned.shown_token_ids)
        return Plan([prompt], params, request.n or 1, parser=planned.parser)

    def answer(
        self, request: ChatCompletionRequest, plan: Plan, head: Head, generation: Generation, model: LoadedModel
    ) -> ChatAnswer:
        """A chat.completion, or its chunks."""
        with_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        with_tier = request.service_tier is not None
        return ChatAnswer(head, generation, model.tokenizer, plan.parser, with_usage=with_usage, with_tier=with_tier)

    def logged_prompt(self, request: ChatCompletionRequest) -> Any:
        """The messages as they came."""
        return msgspec.to_builtins(request.messages)


class ChatAnswer:
    """One conversation's completions."""

    def __init__(
        self,
        head: Head,
        generation: Generation,
        tokenizer: Tokenizer,
        parser: ParserFactory | None,
        *,
        with_usage: bool,
        with_tier: bool,
    ) -> None:
        self._head = head
        self._id = f"chatcmpl-{head.request_id}"
        self._generation = generation
        self._tokenizer = tokenizer
        self._parsers = None if parser is None else [parser() for _ in generation.choices]
        self._with_usage = with_usage
        self._with_tier = with_tier

    @cached_property
    def _frames(self) -> ChunkFrames:
        """What a stream is written with."""
        head = self._head
        tier = {"service_tier": _TIER} if self._with_tier else {}
        return ChunkFrames(
            {
                "id": self._id,
                "object": "chat.completion.chunk",
                "created": head.created,
                "model": head.model,
                "system_fingerprint": head.fingerprint,
                **tier,
            },
            content_key=b'"delta":{"content":',
            content_end=b"}",
            with_usage=self._with_usage,
        )

    def opening(self) -> bytes:
        """The role chunk of each choice; nobody knows yet whether one that may call tools has content."""
        role = b'"delta":{"role":"assistant","content":%s}' % (b'""' if self._parsers is None else b"null")
        return b"".join(self._frames.choice(choice.index, role) for choice in self._generation.choices)

    def event(self, choice: Choice, event: TokenEvent) -> bytes:
        """Deltas with text and calls, and one with the finish reason and log probabilities of tokens without text."""
        if self._parsers is None:
            frames = self._text(choice, event.text) if event.text else b""
        else:
            frames = b"".join(self._delta(choice, delta) for delta in self._read(self._parsers[choice.index], event))
        if event.finish_reason is not None:
            frames += self._frames.choice(
                choice.index,
                b'"delta":{}',
                logprobs=self._logprobs(choice),
                finish_reason=self._finish_reason(choice),
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
        generation = self._generation
        first, *others = generation.choices
        if self._parsers is None and not others and not self._with_tier and is_text_alone(first):
            return text_answer(self._head, self._id, first, generation.prompt_tokens)
        choices = [
            ChatChoice(
                index=choice.index,
                message=self._message(choice),
                logprobs=self._logprobs(choice),
                finish_reason=self._finish_reason(choice),
                stop_reason=choice.stop_reason,
                error=choice_error(choice) or msgspec.UNSET,
            )
            for choice in generation.choices
        ]
        answer = ChatCompletion(
            id=self._id,
            created=self._head.created,
            model=self._head.model,
            system_fingerprint=self._head.fingerprint,
            choices=choices,
            usage=generation.usage(),
            service_tier=_TIER if self._with_tier else msgspec.UNSET,
        )
        return encode_json(answer)

    @property
    def texts(self) -> list[str]:
        """The model's own text of each choice."""
        return [choice.text for choice in self._generation.choices]

    @property
    def finish_reason(self) -> ReportedReason:
        """Of the first choice."""
        return self._finish_reason(self._generation.choices[0])

    @staticmethod
    def _read(parser: OutputParser, event: TokenEvent) -> list[OutputDelta]:
        deltas = parser.push(event.text)
        return deltas if event.finish_reason is None else [*deltas, *parser.finish()]

    def _delta(self, choice: Choice, delta: OutputDelta) -> bytes:
        """One delta as a chunk; log probabilities go with the first that follows their tokens."""
        match delta:
            case TextDelta(text):
                return self._text(choice, text)
            case CallStart(index, call_id, name):
                call = ToolCallDelta(index, FunctionDelta("", name), call_id, "function")
            case CallArguments(index, text):
                call = ToolCallDelta(index, FunctionDelta(text))
            case _:
                return b""
        content = b'"delta":{"tool_calls":[' + encode_json(call) + b"]}"
        return self._frames.choice(choice.index, content, logprobs=self._logprobs(choice))

    def _text(self, choice: Choice, text: str) -> bytes:
        return self._frames.text(choice.index, text, None if choice.logprobs is None else self._logprobs(choice))

    def _message(self, choice: Choice) -> AssistantMessage:
        if self._parsers is None:
            return AssistantMessage(choice.text)
        output = parse_whole(self._parsers[choice.index], choice.text)
        calls = [GeneratedCall(call.id, GeneratedFunction(call.name, call.arguments)) for call in output.calls]
        return AssistantMessage(output.content or (None if calls else ""), tool_calls=calls or msgspec.UNSET)

    def _finish_reason(self, choice: Choice) -> ReportedReason:
        return reason_of(choice, None if self._parsers is None else self._parsers[choice.index])

    def _logprobs(self, choice: Choice) -> ChatLogprobs | None:
        """One entry per token since the last call, bytes included."""
        entries = choice.take_logprobs()
        return None if entries is None else ChatLogprobs(content_logprobs(entries, self._tokenizer))
