"""POST /v1/completions: texts or tokens are continued."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Any

import msgspec

from handler.engine.loaded import LoadedModel
from handler.engine.tokenizer import Tokenizer
from handler.engine.types import TokenEvent
from handler.errors import InvalidRequestError, PilotlightError
from handler.formats.format import Head, Plan, choice_error
from handler.generation import Choice, Generation
from handler.http_errors import error_body
from handler.params import ParamsFactory
from handler.schema.codec import decode_request, encode_json
from handler.schema.text import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from handler.sse import DONE, ChunkFrames, error_event
from handler.structured import compile_grammar


class TextFormat:
    """The completions endpoint's requests and answers."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(CompletionRequest)

    def decode(self, body: bytes) -> CompletionRequest:
        """Validate a text request."""
        return decode_request(self._decoder, body)

    def count_sequences(self, request: CompletionRequest) -> tuple[int, str]:
        """A list of token ids is one prompt, a list of anything else is many."""
        n, prompt = request.n or 1, request.prompt
        if isinstance(prompt, str) or isinstance(prompt[0], int) or len(prompt) == 1:
            return n, "n"
        return n * len(prompt), "prompt"

    def plan(self, request: CompletionRequest, model: LoadedModel, factory: ParamsFactory) -> Plan:
        """Texts get the special tokens that the tokenizer adds; tokens are taken as they are."""
        prompts = [factory.check_prompt(tokens, path) for path, tokens in _prompts(request, model.tokenizer)]
        grammar = compile_grammar(request, None, model.grammars)
        return Plan(prompts, factory.build(request, max(map(len, prompts)), grammar), request.n or 1)

    def answer(
        self, request: CompletionRequest, plan: Plan, head: Head, generation: Generation, model: LoadedModel
    ) -> TextAnswer:
        """A text_completion, or its chunks."""
        with_usage = request.stream_options is not None and request.stream_options.include_usage
        return TextAnswer(head, generation, model.tokenizer, with_usage=with_usage)

    def logged_prompt(self, request: CompletionRequest) -> Any:
        """The prompt as it came."""
        return request.prompt


class TextAnswer:
    """The continuations of one request's prompts."""

    def __init__(self, head: Head, generation: Generation, tokenizer: Tokenizer, *, with_usage: bool) -> None:
        self._head = head
        self._id = f"cmpl-{head.request_id}"
        self._generation = generation
        self._tokenizer = tokenizer
        self._with_usage = with_usage
        self._frames = ChunkFrames(
            {"id": self._id, "object": "text_completion", "created": head.created, "model": head.model},
            content_key=b'"text":',
            content_end=b"",
            with_usage=with_usage,
        )

    def opening(self) -> bytes:
        """A text stream begins with text."""
        return b""

    def event(self, choice: Choice, event: TokenEvent) -> bytes:
        """A chunk with text, and an empty one with the finish reason."""
        frames = b""
        if event.text or (event.finish_reason is not None and event.logprobs is not None):
            frames = self._frames.text(choice.index, event.text, self._logprobs(choice))
        if event.finish_reason is not None:
            frames += self._frames.choice(
                choice.index,
                b'"text":""',
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
        """A text_completion."""
        choices = [
            CompletionChoice(
                index=choice.index,
                text=choice.text,
                logprobs=self._logprobs(choice),
                finish_reason=choice.reported_reason,
                stop_reason=choice.stop_reason,
                error=choice_error(choice) or msgspec.UNSET,
            )
            for choice in self._generation.choices
        ]
        answer = Completion(
            id=self._id,
            created=self._head.created,
            model=self._head.model,
            choices=choices,
            usage=self._generation.usage(),
        )
        return encode_json(answer)

    def _logprobs(self, choice: Choice) -> CompletionLogprobs | None:
        """Parallel lists for the tokens since the last call; offsets count characters of the completion."""
        entries = choice.take_logprobs()
        if entries is None:
            return None
        tokens = [self._text(entry.token_id) for entry in entries]
        offsets = []
        for token in tokens:
            offsets.append(choice.logprobs_offset)
            choice.logprobs_offset += len(token)
        return CompletionLogprobs(
            tokens=tokens,
            token_logprobs=[entry.logprob for entry in entries],
            top_logprobs=[{self._text(token): logprob for token, logprob in entry.top} for entry in entries],
            text_offset=offsets,
        )

    def _text(self, token_id: int) -> str:
        return self._tokenizer.token_bytes(token_id).decode(errors="replace")


def _prompts(request: CompletionRequest, tokenizer: Tokenizer) -> list[tuple[str, list[int]]]:
    """Each prompt's field path and tokens."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [("prompt", tokenizer.encode(prompt, add_special_tokens=True))]
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
            tokenizer.encode(item, add_special_tokens=True) if isinstance(item, str) else _tokens(item),
        )
        for index, item in enumerate(prompt)
    ]


def _tokens(item: SequenceOf[int] | int) -> list[int]:
    return [item] if isinstance(item, int) else list(item)
