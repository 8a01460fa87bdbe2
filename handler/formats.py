"""Chat and text completions as they differ on the wire: prompts in, whole answers and stream chunks out."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Any, Generic, Literal, Protocol

import msgspec

from handler.engine.loaded import LoadedModel
from handler.engine.tokenizer import Tokenizer
from handler.engine.types import FinishReason, TokenLogprob
from handler.errors import InvalidRequestError
from handler.generation import Choice, Generation
from handler.schema import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionRequest,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    ContentLogprob,
    RequestT,
    TopLogprob,
    decode_request,
    encode_json,
)
from handler.sse import ChunkFrames


class Format(Protocol, Generic[RequestT]):
    """One of the two kinds of completion."""

    id_prefix: str
    chunk_object: str

    def decode(self, body: bytes) -> RequestT:
        """The request; errors are InvalidRequestError."""

    def count_prompts(self, request: RequestT) -> int:
        """How many prompts it has, without tokenizing."""

    def tokenize(self, request: RequestT, model: LoadedModel) -> list[tuple[str, list[int]]]:
        """Each prompt's field path and tokens. Runs in the thread pool."""

    def logged_prompt(self, request: RequestT) -> Any:
        """What LOG_PROMPTS stores."""

    def frames(self, head: dict[str, str | int], *, with_usage: bool) -> ChunkFrames:
        """The builder of this kind's stream chunks."""

    def opening(self, frames: ChunkFrames, index: int) -> bytes:
        """What a choice's stream begins with; may be empty."""

    def closing(self, frames: ChunkFrames, choice: Choice) -> bytes:
        """The chunk that carries a choice's finish reason."""

    def logprobs(
        self, choice: Choice, entries: list[TokenLogprob] | None, tokenizer: Tokenizer
    ) -> msgspec.Struct | None:
        """Log probabilities in this kind's form."""

    def whole(self, head: dict[str, str | int], generation: Generation, tokenizer: Tokenizer) -> bytes:
        """The complete answer."""


class ChatFormat:
    """POST /v1/chat/completions."""

    id_prefix = "chatcmpl-"
    chunk_object = "chat.completion.chunk"

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(ChatCompletionRequest)

    def decode(self, body: bytes) -> ChatCompletionRequest:
        """Validate a chat request."""
        return decode_request(self._decoder, body)

    def count_prompts(self, request: ChatCompletionRequest) -> int:
        """A conversation is one prompt."""
        return 1

    def tokenize(self, request: ChatCompletionRequest, model: LoadedModel) -> list[tuple[str, list[int]]]:
        """Render the template, which writes all special tokens itself, and encode."""
        if model.chat_template is None:
            raise InvalidRequestError("The model has no chat template; use /v1/completions", "messages")
        text = model.chat_template.render([message.for_template() for message in request.messages])
        return [("messages", model.tokenizer.encode(text, add_special_tokens=False))]

    def logged_prompt(self, request: ChatCompletionRequest) -> Any:
        """The messages as they came."""
        return msgspec.to_builtins(request.messages)

    def frames(self, head: dict[str, str | int], *, with_usage: bool) -> ChunkFrames:
        """Text stands in a delta."""
        return ChunkFrames(head, content_key=b'"delta":{"content":', content_end=b"}", with_usage=with_usage)

    def opening(self, frames: ChunkFrames, index: int) -> bytes:
        """The role chunk."""
        return frames.choice(index, b'"delta":{"role":"assistant","content":""}')

    def closing(self, frames: ChunkFrames, choice: Choice) -> bytes:
        """An empty delta with the finish reason."""
        return frames.choice(
            choice.index, b'"delta":{}', finish_reason=choice.finish_reason, stop_reason=choice.stop_reason
        )

    def logprobs(
        self,
        choice: Choice,
        entries: list[TokenLogprob] | None,
        tokenizer: Tokenizer,
    ) -> ChatLogprobs | None:
        """One entry per token, bytes included."""
        if entries is None:
            return None
        return ChatLogprobs([_content_logprob(entry, tokenizer) for entry in entries])

    def whole(self, head: dict[str, str | int], generation: Generation, tokenizer: Tokenizer) -> bytes:
        """A chat.completion."""
        choices = [
            ChatChoice(
                choice.index,
                AssistantMessage(choice.text),
                self.logprobs(choice, choice.take_logprobs(), tokenizer),
                _finish_reason(choice),
                choice.stop_reason,
            )
            for choice in generation.choices
        ]
        answer = ChatCompletion(
            id=str(head["id"]),
            created=int(head["created"]),
            model=str(head["model"]),
            choices=choices,
            usage=generation.usage(),
        )
        return encode_json(answer)


class TextFormat:
    """POST /v1/completions."""

    id_prefix = "cmpl-"
    chunk_object = "text_completion"

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(CompletionRequest)

    def decode(self, body: bytes) -> CompletionRequest:
        """Validate a text request."""
        return decode_request(self._decoder, body)

    def count_prompts(self, request: CompletionRequest) -> int:
        """A list of token ids is one prompt, a list of anything else is many."""
        prompt = request.prompt
        return 1 if isinstance(prompt, str) or isinstance(prompt[0], int) else len(prompt)

    def tokenize(self, request: CompletionRequest, model: LoadedModel) -> list[tuple[str, list[int]]]:
        """Texts get the special tokens that the tokenizer adds; tokens are taken as they are."""
        prompt = request.prompt
        if isinstance(prompt, str):
            return [("prompt", model.tokenizer.encode(prompt, add_special_tokens=True))]
        kind = type(prompt[0])
        for index, item in enumerate(prompt):
            if type(item) is not kind:
                raise InvalidRequestError(
                    f"prompt[{index}]: a list of prompts must hold one kind of item", f"prompt[{index}]"
                )
        if kind is int:
            return [("prompt", [item for item in prompt if isinstance(item, int)])]
        return [
            (
                f"prompt[{index}]",
                model.tokenizer.encode(item, add_special_tokens=True) if isinstance(item, str) else _tokens(item),
            )
            for index, item in enumerate(prompt)
        ]

    def logged_prompt(self, request: CompletionRequest) -> Any:
        """The prompt as it came."""
        return request.prompt

    def frames(self, head: dict[str, str | int], *, with_usage: bool) -> ChunkFrames:
        """Text stands in the choice itself."""
        return ChunkFrames(head, content_key=b'"text":', content_end=b"", with_usage=with_usage)

    def opening(self, frames: ChunkFrames, index: int) -> bytes:
        """A text stream begins with text."""
        return b""

    def closing(self, frames: ChunkFrames, choice: Choice) -> bytes:
        """An empty text with the finish reason."""
        return frames.choice(
            choice.index, b'"text":""', finish_reason=choice.finish_reason, stop_reason=choice.stop_reason
        )

    def logprobs(
        self, choice: Choice, entries: list[TokenLogprob] | None, tokenizer: Tokenizer
    ) -> CompletionLogprobs | None:
        """Parallel lists; offsets count characters from the completion's beginning."""
        if entries is None:
            return None
        tokens = [_text(entry.token_id, tokenizer) for entry in entries]
        offsets = []
        for token in tokens:
            offsets.append(choice.logprobs_offset)
            choice.logprobs_offset += len(token)
        return CompletionLogprobs(
            tokens=tokens,
            token_logprobs=[entry.logprob for entry in entries],
            top_logprobs=[{_text(token, tokenizer): logprob for token, logprob in entry.top} for entry in entries],
            text_offset=offsets,
        )

    def whole(self, head: dict[str, str | int], generation: Generation, tokenizer: Tokenizer) -> bytes:
        """A text_completion."""
        choices = [
            CompletionChoice(
                choice.index,
                choice.text,
                self.logprobs(choice, choice.take_logprobs(), tokenizer),
                _finish_reason(choice),
                choice.stop_reason,
            )
            for choice in generation.choices
        ]
        answer = Completion(
            id=str(head["id"]),
            created=int(head["created"]),
            model=str(head["model"]),
            choices=choices,
            usage=generation.usage(),
        )
        return encode_json(answer)


def _finish_reason(choice: Choice) -> Literal["stop", "length"]:
    return "length" if choice.finish_reason is FinishReason.LENGTH else "stop"


def _tokens(item: SequenceOf[int] | int) -> list[int]:
    return [item] if isinstance(item, int) else list(item)


def _text(token_id: int, tokenizer: Tokenizer) -> str:
    return tokenizer.token_bytes(token_id).decode(errors="replace")


def _content_logprob(entry: TokenLogprob, tokenizer: Tokenizer) -> ContentLogprob:
    top = [
        TopLogprob(_text(token, tokenizer), logprob, list(tokenizer.token_bytes(token))) for token, logprob in entry.top
    ]
    token = entry.token_id
    return ContentLogprob(_text(token, tokenizer), entry.logprob, list(tokenizer.token_bytes(token)), top)
