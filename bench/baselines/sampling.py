"""From a chat request's sampling fields to the engine's parameters, under the function's defaults. Knows no HTTP."""

from __future__ import annotations

from typing import TypeVar

from bench.baselines.schema import ChatRequest
from handler.engine.loaded import LoadedModel
from handler.engine.sampling_params import SamplingParams
from handler.errors import ContextLengthError, InvalidRequestError
from handler.settings import Settings

T = TypeVar("T")


def sampling_params(request: ChatRequest, prompt_tokens: int, model: LoadedModel, settings: Settings) -> SamplingParams:
    """Parameters for a prompt of that many tokens. A request's value wins over the settings', those over the model's.

    Raises:
        ContextLengthError: prompt and completion do not fit the model together.
        InvalidRequestError: a token id that the model does not have, or fields that contradict each other.
    """
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError("stream_options needs stream to be true", "stream_options")
    defaults = model.defaults
    max_tokens = _max_tokens(request, prompt_tokens, model, settings)
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequestError(f"min_tokens {min_tokens} is above max_tokens {max_tokens}", "min_tokens")
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=_first(request.temperature, settings.default_temperature, defaults.temperature, 1.0),
        top_p=_first(request.top_p, defaults.top_p, 1.0),
        top_k=max(0, _first(request.top_k, defaults.top_k, 0)),  # -1 is another spelling of 0
        min_p=_first(request.min_p, defaults.min_p, 0.0),
        seed=request.seed,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=_first(request.repetition_penalty, defaults.repetition_penalty, 1.0),
        stop=_stops(request),
        stop_token_ids=_stop_tokens(request, model),
        min_tokens=min_tokens,
        ignore_eos=bool(request.ignore_eos),
        priority=request.priority or 0,
    )


def _max_tokens(request: ChatRequest, prompt_tokens: int, model: LoadedModel, settings: Settings) -> int:
    field, asked = "max_tokens", request.max_tokens
    if request.max_completion_tokens is not None:
        field, asked = "max_completion_tokens", request.max_completion_tokens
        if request.max_tokens not in {None, asked}:
            raise InvalidRequestError("max_tokens and max_completion_tokens differ", field)
    room = model.info.max_model_len - prompt_tokens
    if asked is None:
        return room if settings.default_max_tokens is None else min(room, settings.default_max_tokens)
    if asked > room:
        raise ContextLengthError(
            f"The prompt's {prompt_tokens} tokens and {field} {asked} exceed the model's context of "
            f"{model.info.max_model_len} tokens",
            field,
        )
    return asked


def _stops(request: ChatRequest) -> tuple[str, ...]:
    if request.stop is None:
        return ()
    return (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)


def _stop_tokens(request: ChatRequest, model: LoadedModel) -> tuple[int, ...]:
    token_ids = tuple(request.stop_token_ids or ())
    if token_ids and max(token_ids) >= model.info.vocab_size:
        raise InvalidRequestError(
            f"stop_token_ids: token {max(token_ids)} is outside the model's vocabulary of {model.info.vocab_size}",
            "stop_token_ids",
        )
    return token_ids


def _first(*values: T | None) -> T:
    for value in values:
        if value is not None:
            return value
    raise AssertionError("the last value is a constant")
