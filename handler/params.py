"""From the wire's sampling fields to the engine's parameters: defaults, and the checks that need the model."""

from __future__ import annotations

import re
from typing import TypeVar

from handler.engine.generation_config import GenerationDefaults
from handler.engine.grammar import Grammar
from handler.engine.types import ModelInfo, SamplingParams
from handler.errors import ContextLengthError, InvalidRequestError
from handler.schema.chat import ChatCompletionRequest
from handler.schema.sampling import SamplingFields
from handler.schema.text import CompletionRequest

T = TypeVar("T")

_TOKEN_ID = re.compile("[0-9]{1,10}")


class ParamsFactory:
    """Builds `SamplingParams`. A request's value wins over the settings', those over the model's own."""

    def __init__(
        self,
        info: ModelInfo,
        defaults: GenerationDefaults,
        *,
        default_max_tokens: int | None,
        default_temperature: float | None,
    ) -> None:
        self._info = info
        self._default_max_tokens = default_max_tokens
        self._temperature = _first(default_temperature, defaults.temperature, 1.0)
        self._top_p = _first(defaults.top_p, 1.0)
        self._top_k = _first(defaults.top_k, 0)
        self._min_p = _first(defaults.min_p, 0.0)
        self._repetition_penalty = _first(defaults.repetition_penalty, 1.0)

    def build(
        self,
        request: ChatCompletionRequest | CompletionRequest,
        longest_prompt_tokens: int,
        grammar: Grammar | None = None,
    ) -> SamplingParams:
        """Parameters for all sequences of a request whose longest prompt has that many tokens.

        Raises:
            ContextLengthError: prompt and completion do not fit the model together.
            InvalidRequestError: a token id that the model does not have, or fields that contradict each other.
        """
        if request.stream_options is not None and not request.stream:
            raise InvalidRequestError("stream_options needs stream to be true", "stream_options")
        max_tokens = self._max_tokens(request, longest_prompt_tokens)
        min_tokens = request.min_tokens or 0
        if min_tokens > max_tokens:
            raise InvalidRequestError(f"min_tokens {min_tokens} is above max_tokens {max_tokens}", "min_tokens")
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=_first(request.temperature, self._temperature),
            top_p=_first(request.top_p, self._top_p),
            top_k=max(0, _first(request.top_k, self._top_k)),  # -1 is another spelling of 0
            min_p=_first(request.min_p, self._min_p),
            seed=request.seed,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            repetition_penalty=_first(request.repetition_penalty, self._repetition_penalty),
            logit_bias=self._logit_bias(request),
            stop=_stops(request),
            stop_token_ids=self._token_ids(request.stop_token_ids or [], "stop_token_ids"),
            min_tokens=min_tokens,
            ignore_eos=request.ignore_eos,
            logprobs=_logprobs(request),
            grammar=grammar,
        )

    def check_prompt(self, tokens: list[int], param: str) -> list[int]:
        """The prompt's tokens, if the model can take them.

        Raises:
            ContextLengthError: longer than the model's context.
            InvalidRequestError: empty, or an id that the model does not have.
        """
        if not tokens:
            raise InvalidRequestError(f"{param}: the prompt has no tokens", param)
        if len(tokens) >= self._info.max_model_len:
            raise ContextLengthError(
                f"The prompt has {len(tokens)} tokens; the model's context holds {self._info.max_model_len}, "
                "of which at least one must be left to generate",
                param,
            )
        self._token_ids(tokens, param)
        return tokens

    def _max_tokens(self, request: ChatCompletionRequest | CompletionRequest, prompt_tokens: int) -> int:
        field, asked = "max_tokens", request.max_tokens
        if isinstance(request, ChatCompletionRequest) and request.max_completion_tokens is not None:
            if asked not in {None, request.max_completion_tokens}:
                raise InvalidRequestError("max_tokens and max_completion_tokens differ", "max_completion_tokens")
            field, asked = "max_completion_tokens", request.max_completion_tokens
        room = self._info.max_model_len - prompt_tokens
        if asked is None:
            return room if self._default_max_tokens is None else min(room, self._default_max_tokens)
        if asked > room:
            raise ContextLengthError(
                f"The prompt's {prompt_tokens} tokens and {field} {asked} exceed the model's context of "
                f"{self._info.max_model_len} tokens",
                field,
            )
        return asked

    def _logit_bias(self, request: SamplingFields) -> dict[int, float]:
        biases: dict[int, float] = {}
        for key, bias in (request.logit_bias or {}).items():
            if not _TOKEN_ID.fullmatch(key):
                raise InvalidRequestError(f"logit_bias: {key[:20]!r} is not a token id", "logit_bias")
            biases[int(key)] = bias
        self._token_ids(list(biases), "logit_bias")
        return biases

    def _token_ids(self, token_ids: list[int], param: str) -> tuple[int, ...]:
        largest = max(token_ids, default=0)
        if largest >= self._info.vocab_size:
            raise InvalidRequestError(
                f"{param}: token {largest} is outside the model's vocabulary of {self._info.vocab_size}",
                param,
            )
        return tuple(token_ids)


def _stops(request: SamplingFields) -> tuple[str, ...]:
    if request.stop is None:
        return ()
    return (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)


def _logprobs(request: ChatCompletionRequest | CompletionRequest) -> int | None:
    if isinstance(request, CompletionRequest):
        return request.logprobs
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs is not None:
        raise InvalidRequestError("top_logprobs needs logprobs to be true", "top_logprobs")
    return None


def _first(*values: T | None) -> T:
    return next(value for value in values if value is not None)
