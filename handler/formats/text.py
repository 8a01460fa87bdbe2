"""POST /v1/completions: texts or tokens are continued."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from handler.choice import Choice
from handler.demand import Demand
from handler.engine.events import TokenEvent
from handler.engine.loaded import LoadedModel
from handler.engine.tokenizer import Tokenizer
from handler.errors import InvalidRequestError, PilotlightError
from handler.formats.format import Echo, Head, Plan, choice_error
from handler.formats.text_logprobs import LogprobLists, joined
from handler.formats.text_prompts import count_given_tokens, count_prompts, read_prompts
from handler.generation import Generation
from handler.http_errors import error_body
from handler.params import ParamsFactory
from handler.schema.codec import decode_request, encode_json
from handler.schema.text import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from handler.schema.usage import FinishReason
from handler.sse import DONE, ChunkFrames, error_event
from handler.structured import compile_grammar, grammar_spec


class TextFormat:
    """The completions endpoint's requests and answers."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(CompletionRequest)

    def decode(self, body: bytes) -> CompletionRequest:
        """Validate a text request."""
        request = decode_request(self._decoder, body)
        n, best_of = request.n or 1, request.best_of
        if best_of is not None and best_of < n:
            raise InvalidRequestError(f"best_of {best_of} is below n {n}", "best_of")
        if best_of is not None and best_of > n and request.stream:
            raise InvalidRequestError("best_of: the best is known at the end only; it cannot be streamed", "best_of")
        return request

    def demand(self, request: CompletionRequest) -> Demand:
        """Completions of all prompts."""
        num_prompts, each = count_prompts(request), _completions_each(request)
        param = "n" if each == (request.n or 1) else "best_of"
        return Demand(
            prompts=num_prompts,
            completions=each,
            param="prompt" if num_prompts > 1 else param,
            prompt_tokens=count_given_tokens(request),
            max_tokens=request.max_tokens,
            priority=request.priority or 0,
        )

    def is_light(self, request: CompletionRequest) -> bool:
        """Nothing is compiled."""
        return grammar_spec(request, None) is None

    def plan(self, request: CompletionRequest, model: LoadedModel, factory: ParamsFactory) -> Plan:
        """Encode and check every prompt."""
        min_new_tokens = 0 if request.max_tokens == 0 else 1
        prompts = read_prompts(request, model)
        for prompt in prompts:
            factory.check_prompt(prompt.tokens, prompt.param, min_new_tokens=min_new_tokens)
        grammar = compile_grammar(request, None, model.grammars)
        params = factory.build(request, max(len(prompt.tokens) for prompt in prompts), grammar)
        echoes = tuple(prompt.echo for prompt in prompts if prompt.echo is not None)
        return Plan([prompt.tokens for prompt in prompts], params, _completions_each(request), echoes)

    def answer(
        self, request: CompletionRequest, plan: Plan, head: Head, generation: Generation, model: LoadedModel
    ) -> TextAnswer:
        """A text_completion, or its chunks."""
        return TextAnswer(request, plan, head, generation, model.tokenizer)

    def logged_prompt(self, request: CompletionRequest) -> Any:
        """The prompt as it came."""
        return request.prompt


class TextAnswer:
    """The continuations of one request's prompts."""

    def __init__(
        self, request: CompletionRequest, plan: Plan, head: Head, generation: Generation, tokenizer: Tokenizer
    ) -> None:
        self._head = head
        self._id = f"cmpl-{head.request_id}"
        self._plan = plan
        self._n = request.n or 1
        self._with_logprobs = request.logprobs is not None
        self._with_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        self._generation = generation
        self._tokenizer = tokenizer
        self._lists: dict[int, LogprobLists] = {}
        self._begun: set[int] = set()  # choices whose echo is out
        self._frames = ChunkFrames(
            {
                "id": self._id,
                "object": "text_completion",
                "created": head.created,
                "model": head.model,
                "system_fingerprint": head.fingerprint,
            },
            content_key=b'"text":',
            content_end=b"",
            with_usage=self._with_usage,
        )

    def opening(self) -> bytes:
        """A text stream begins with text."""
        return b""

    def event(self, choice: Choice, event: TokenEvent) -> bytes:
        """A chunk with text, and one with the finish reason; before a choice's first the prompt, where asked for."""
        frames = b""
        if self._plan.echoes and choice.index not in self._begun and choice.error is None:
            self._begun.add(choice.index)
            text, logprobs = self._echo_of(choice).text, self._prompt_logprobs(choice)
            if text or logprobs is not None:
                frames = self._frames.text(choice.index, text, logprobs)
        if event.text:
            frames += self._frames.text(choice.index, event.text, self._logprobs(choice))
        if event.finish_reason is not None:
            frames += self._frames.choice(
                choice.index,
                b'"text":""',
                logprobs=self._logprobs(choice),
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
        answer = Completion(
            id=self._id,
            created=self._head.created,
            model=self._head.model,
            system_fingerprint=self._head.fingerprint,
            choices=[self._whole_choice(index, choice) for index, choice in enumerate(self._returned)],
            usage=self._generation.usage(),
        )
        return encode_json(answer)

    @property
    def texts(self) -> list[str]:
        """The model's own text of each choice that is returned."""
        return [choice.text for choice in self._returned]

    @property
    def finish_reason(self) -> FinishReason:
        """Of the first choice that is returned."""
        return self._returned[0].reported_reason

    @functools.cached_property
    def _returned(self) -> list[Choice]:
        """Every choice, or with `best_of` those of each prompt whose tokens are likeliest on average, best first.

        Ranked once, before log probabilities are taken to be written.
        """
        choices, each = self._generation.choices, self._plan.n
        if each == self._n:
            return choices
        returned: list[Choice] = []
        for first in range(0, len(choices), each):
            ranked = sorted(choices[first : first + each], key=lambda choice: choice.mean_logprob, reverse=True)
            returned += ranked[: self._n]
        return returned

    def _whole_choice(self, index: int, choice: Choice) -> CompletionChoice:
        text, logprobs = choice.text, self._logprobs(choice)
        if self._plan.echoes and choice.error is None:
            text = self._echo_of(choice).text + text
            before = self._prompt_logprobs(choice)
            logprobs = logprobs if before is None else joined(before, logprobs)
        return CompletionChoice(
            index=index,
            text=text,
            logprobs=logprobs,
            finish_reason=choice.reported_reason,
            stop_reason=choice.stop_reason,
            error=choice_error(choice) or msgspec.UNSET,
        )

    def _echo_of(self, choice: Choice) -> Echo:
        return self._plan.echoes[choice.index // self._plan.n]

    def _prompt_logprobs(self, choice: Choice) -> CompletionLogprobs | None:
        if choice.prompt_logprobs is None:
            return None
        return self._lists_of(choice).prompt(choice.prompt_logprobs)

    def _logprobs(self, choice: Choice) -> CompletionLogprobs | None:
        """Of the tokens since the last call, None where there are none or nobody asked."""
        entries = choice.take_logprobs() if self._with_logprobs else None
        return None if entries is None else self._lists_of(choice).completion(entries)

    def _lists_of(self, choice: Choice) -> LogprobLists:
        lists = self._lists.get(choice.index)
        if lists is None:
            lists = self._lists[choice.index] = LogprobLists(
                self._tokenizer,
                self._plan.prompts[choice.index // self._plan.n],
                self._echo_of(choice) if self._plan.echoes else None,
                skip_special_tokens=self._plan.params.skip_special_tokens,
            )
        return lists


def _completions_each(request: CompletionRequest) -> int:
    return request.best_of or request.n or 1
