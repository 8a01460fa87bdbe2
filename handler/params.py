"""From the wire's sampling fields to the engine's parameters: defaults, and the checks that need the model."""

from __future__ import annotations

import re
from collections.abc import Collection
from operator import attrgetter
from typing import TypeAlias, TypeVar

from handler.engine.generation_config import GenerationDefaults
from handler.engine.grammar import Grammar
from handler.engine.sampling_params import SamplingParams
from handler.engine.status import ModelInfo
from handler.engine.tokenizer import Tokenizer
from handler.errors import ContextLengthError, InvalidRequestError
from handler.schema.chat import ChatCompletionRequest
from handler.schema.responses import LOGPROBS, ResponseRequest, ResponseStreamOptions
from handler.schema.sampling import SamplingFields, StreamOptions
from handler.schema.text import CompletionRequest
from handler.schema.unsupported import find_refused

T = TypeVar("T")
Request: TypeAlias = ChatCompletionRequest | CompletionRequest | ResponseRequest

_SELDOM_SET_FIELDS = (
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "bad_words",
    "include_stop_str_in_output",
    "skip_special_tokens",
)
_SELDOM_SET = attrgetter(*_SELDOM_SET_FIELDS)
_NONE_SET = (None,) * len(_SELDOM_SET_FIELDS)

_TOKEN_ID = re.compile("0|[1-9][0-9]{0,9}")  # no id has two spellings, of which one would be lost


class ParamsFactory:
    """Builds `SamplingParams`. A request's value wins over the settings', those over the model's own."""

    def __init__(
        self,
        info: ModelInfo,
        defaults: GenerationDefaults,
        tokenizer: Tokenizer,
        *,
        default_max_tokens: int | None,
        default_temperature: float | None,
    ) -> None:
        self._info = info
        self._tokenizer = tokenizer
        self._default_max_tokens = default_max_tokens
        self._temperature = _first(default_temperature, defaults.temperature, 1.0)
        self._top_p = _first(defaults.top_p, 1.0)
        self._top_k = max(0, _first(defaults.top_k, 0))  # -1 is another spelling of 0
        self._min_p = _first(defaults.min_p, 0.0)
        self._repetition_penalty = _first(defaults.repetition_penalty, 1.0)

    def build(self, request: Request, longest_prompt_tokens: int, grammar: Grammar | None = None) -> SamplingParams:
        """Parameters for all sequences of a request whose longest prompt has that many tokens.

        Raises:
            ContextLengthError: prompt and completion do not fit the model together.
            InvalidRequestError: a token id that the model does not have, or fields that contradict each other.
        """
        if request.stream_options is not None:
            _check_stream(request, request.stream_options)
        max_tokens = self._max_tokens(request, longest_prompt_tokens)
        temperature = self._temperature if request.temperature is None else request.temperature
        top_p = self._top_p if request.top_p is None else request.top_p
        logprobs, prompt_logprobs = _logprobs(request), _prompt_logprobs(request)
        if _SELDOM_SET(request) == _NONE_SET:  # like most requests, which need not pay for a look at each
            return SamplingParams(
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=self._top_k,
                min_p=self._min_p,
                seed=request.seed,
                repetition_penalty=self._repetition_penalty,
                logprobs=logprobs,
                prompt_logprobs=prompt_logprobs,
                priority=request.priority or 0,
                grammar=grammar,
            )
        min_tokens = request.min_tokens or 0
        stop_token_ids = tuple(request.stop_token_ids or ())
        if stop_token_ids:
            self._check_token_ids(stop_token_ids, "stop_token_ids")
        if min_tokens > max_tokens:
            raise InvalidRequestError(f"min_tokens {min_tokens} is above max_tokens {max_tokens}", "min_tokens")
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=max(0, _first(request.top_k, self._top_k)),
            min_p=_first(request.min_p, self._min_p),
            seed=request.seed,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            repetition_penalty=_first(request.repetition_penalty, self._repetition_penalty),
            logit_bias=self._logit_bias(request),
            stop=_stops(request),
            stop_token_ids=stop_token_ids,
            min_tokens=min_tokens,
            ignore_eos=bool(request.ignore_eos),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            bad_words=self._bad_words(request),
            include_stop=bool(request.include_stop_str_in_output),
            skip_special_tokens=_first(request.skip_special_tokens, True),
            priority=request.priority or 0,
            grammar=grammar,
        )

    def promised_tokens(self, request: Request) -> tuple[str, int]:
        """The field that limits a completion, and its tokens at most by the request or the settings; 0: by neither."""
        field, asked = token_limit(request)
        return field, _first(asked, self._default_max_tokens, 0)

    def check_prompt(self, tokens: list[int], param: str, *, min_new_tokens: int = 1) -> list[int]:
        """The prompt's tokens, if the model can take them and `min_new_tokens` more.

        Raises:
            ContextLengthError: longer than the model's context.
            InvalidRequestError: empty, or an id that the model does not have.
        """
        if not tokens:
            raise InvalidRequestError(f"{param}: the prompt has no tokens", param)
        if len(tokens) + min_new_tokens > self._info.max_model_len:
            left = ", of which at least one must be left to generate" if min_new_tokens else ""
            raise ContextLengthError(
                f"{param}: the prompt has {len(tokens)} tokens; the model's context holds "
                f"{self._info.max_model_len}{left}",
                param,
            )
        self._check_token_ids(tokens, param)
        return tokens

    def _max_tokens(self, request: Request, prompt_tokens: int) -> int:
        field, asked = token_limit(request)
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
        if not request.logit_bias:
            return biases
        for key, bias in request.logit_bias.items():
            if not _TOKEN_ID.fullmatch(key):
                raise InvalidRequestError(f"logit_bias: {key[:20]!r} is not a token id", "logit_bias")
            biases[int(key)] = bias
        self._check_token_ids(biases, "logit_bias")
        return biases

    def _bad_words(self, request: Request) -> tuple[tuple[int, ...], ...]:
        """Each word's tokens, as the beginning of a text and behind a space."""
        if not request.bad_words:
            return ()
        words: dict[tuple[int, ...], None] = {}
        for index, word in enumerate(request.bad_words):
            bare = word.lstrip()
            if not bare:
                raise InvalidRequestError(f"bad_words[{index}]: white space is no word", f"bad_words[{index}]")
            for spelling in (bare, f" {bare}"):
                tokens = self._tokenizer.encode(spelling, add_special_tokens=False)
                if tokens:
                    self._check_token_ids(tokens, f"bad_words[{index}]")
                    words[tuple(tokens)] = None
        return tuple(words)

    def _check_token_ids(self, token_ids: Collection[int], param: str) -> None:
        largest = max(token_ids)
        if largest >= self._info.vocab_size:
            raise InvalidRequestError(
                f"{param}: token {largest} is outside the model's vocabulary of {self._info.vocab_size}",
                param,
            )


def token_limit(request: Request) -> tuple[str, int | None]:
    """The field that limits the completion, and its value."""
    if isinstance(request, ResponseRequest):
        return "max_output_tokens", request.max_output_tokens
    if isinstance(request, CompletionRequest) or request.max_completion_tokens is None:
        return "max_tokens", request.max_tokens
    if request.max_tokens not in {None, request.max_completion_tokens}:
        raise InvalidRequestError("max_tokens and max_completion_tokens differ", "max_completion_tokens")
    return "max_completion_tokens", request.max_completion_tokens


def _stops(request: SamplingFields) -> tuple[str, ...]:
    if request.stop is None:
        return ()
    return (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)


def _check_stream(request: Request, options: StreamOptions | ResponseStreamOptions) -> None:
    if not request.stream:
        raise InvalidRequestError("stream_options needs stream to be true", "stream_options")
    for name, message in find_refused(options):
        raise InvalidRequestError(f"stream_options.{name}: {message}", f"stream_options.{name}")


def _prompt_logprobs(request: Request) -> int | None:
    return request.logprobs if isinstance(request, CompletionRequest) and request.echo else None


def _logprobs(request: Request) -> int | None:
    if isinstance(request, ChatCompletionRequest):
        return _chat_logprobs(request)
    if isinstance(request, CompletionRequest):
        is_ranked = (request.best_of or 1) > (request.n or 1)
        return 0 if is_ranked and request.logprobs is None else request.logprobs
    return _response_logprobs(request)


def _chat_logprobs(request: ChatCompletionRequest) -> int | None:
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs is not None:
        raise InvalidRequestError("top_logprobs needs logprobs to be true", "top_logprobs")
    return None


def _response_logprobs(request: ResponseRequest) -> int | None:
    if request.wants_logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise InvalidRequestError(f"top_logprobs needs {LOGPROBS!r} in include", "top_logprobs")
    return None


def _first(*values: T | None) -> T:
    for value in values:
        if value is not None:
            return value
    raise AssertionError("the last value is a constant")
