"""The contract: each endpoint with what it takes, what it answers, how it fails, and an example that works.

`openapi.py` describes what stands here, and `app.py` serves it: a test holds the two to each other. Knows no handler.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from handler.errors import (
    AuthenticationError,
    BodyTooLargeError,
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    NotStoredError,
    OverloadedError,
    PilotlightError,
    RateLimitError,
    RequestTimeoutError,
    StartingError,
    StoppingError,
    UnknownModelError,
    UnsupportedMediaTypeError,
)
from handler.schema.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from handler.schema.models import Model, ModelList
from handler.schema.predictions import Predictions, PredictRequest
from handler.schema.response import Response
from handler.schema.response_events import RESPONSE_EVENTS
from handler.schema.responses import ResponseRequest
from handler.schema.status import Health, ReadyStatus, Startup, Version
from handler.schema.text import Completion, CompletionRequest
from handler.schema.tokens import (
    DetokenizedText,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
    Tokens,
)


class Answer(msgspec.Struct, frozen=True):
    """One response that is no error. `kinds` are the types of its JSON body, none where it is not JSON."""

    description: str
    kinds: tuple[Any, ...] = ()
    media_type: str | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path.

    Attributes:
        requests: types of the JSON body; it is of one of them.
        answers: by status.
        events: types of the events that come in place of the 200 where the request has `"stream": true`.
        last_event: the data of the event behind them, which is no JSON.
        stream_end: how a stream ends, in words.
        errors: what may be raised, beside what a missing key raises.
        rules: what a request must obey that its schema cannot say.
        examples: bodies by name; the served model's name is added.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    summary: str
    requests: tuple[Any, ...] = ()
    answers: dict[int, Answer] = {}
    events: tuple[Any, ...] = ()
    last_event: str | None = "[DONE]"
    stream_end: str = "The last one is `[DONE]`, or an error where it was cut short."
    errors: tuple[type[PilotlightError], ...] = ()
    rules: tuple[str, ...] = ()
    examples: dict[str, dict[str, Any]] = {}


_BODY_ERRORS: tuple[type[PilotlightError], ...] = (
    InvalidRequestError,
    UnknownModelError,
    BodyTooLargeError,
    UnsupportedMediaTypeError,
    RateLimitError,
    RequestTimeoutError,
    DeadlineExceededError,
    EngineError,
)
_GENERATION_ERRORS = (*_BODY_ERRORS, ContextLengthError, OverloadedError, StartingError, StoppingError)

_INTEGERS = "Integers are written without a fraction: 1, not 1.0."
_GENERATION_RULES = (
    _INTEGERS,
    "`model` is the served one.",
    "Prompt and completion fit the model's context.",
    "Token ids, also those in `logit_bias`, are in the model's vocabulary.",
    "`stream_options` needs `stream` to be true.",
    "`min_tokens` is not above the tokens that may be generated.",
    "The request makes no more sequences than MAX_BATCH_SIZE and MAX_QUEUED_REQUESTS have room for.",
    "One field at most asks for a form, in one way, and neither `min_tokens` nor `ignore_eos` stands beside it.",
    "Schemas, regular expressions and grammars can be compiled.",
)
_CONVERSATION_RULES = (
    "The model has a chat template, it takes these messages, and knows the variables in `chat_template_kwargs`.",
    "An assistant's message has content, a refusal or calls, and the arguments of a call are a JSON object.",
    "Each of an assistant's calls is answered by one `tool` message behind it, and each `tool` message answers one.",
    "Only an assistant's text can be continued, and then no generation prompt follows.",
    "Tools have different names, and their parameters are the schema of an object.",
)
_CHAT_RULES = (
    *_GENERATION_RULES,
    "`top_logprobs` needs `logprobs` to be true.",
    "`max_tokens` and `max_completion_tokens` do not differ.",
    *_CONVERSATION_RULES,
    "`tool_choice` is among `tools`; beside tools that the model is free to call, no grammar can stand.",
)
_TEXT_RULES = (*_GENERATION_RULES, "A list of prompts holds one kind of item, and no prompt is without tokens.")

_RESPONSE_RULES = (
    *_GENERATION_RULES,
    "`top_logprobs` needs `message.output_text.logprobs` in `include`.",
    "The model has a chat template, and it takes these messages.",
    "Each `function_call` in `input` has one `function_call_output`, and its arguments are a JSON object.",
    "Tools have different names, and their parameters are the schema of an object.",
    "`tool_choice` is among `tools`; beside tools that the model is free to call, no grammar can stand.",
)
_STORED_RESPONSE: tuple[tuple[Literal["GET", "POST", "DELETE"], str], ...] = (
    ("GET", ""),
    ("DELETE", ""),
    ("POST", "/cancel"),
    ("GET", "/input_items"),
)

_MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
_CHAT_EXAMPLES: dict[str, dict[str, Any]] = {
    "whole": {"messages": _MESSAGES, "max_tokens": 16, "temperature": 0},
    "stream": {
        "messages": [{"role": "system", "content": "Be brief."}, *_MESSAGES],
        "max_tokens": 16,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
}
_TEXT_EXAMPLES: dict[str, dict[str, Any]] = {
    "one": {"prompt": "1, 2, 3,", "max_tokens": 8, "temperature": 0, "logprobs": 1},
    "several": {"prompt": ["The sea is", "The sky is"], "max_tokens": 8, "stream": True},
}
_RESPONSE_EXAMPLES: dict[str, dict[str, Any]] = {
    "text": {"input": "What is the capital of France?", "max_output_tokens": 16, "temperature": 0},
    "stream": {"input": _MESSAGES, "instructions": "Be brief.", "max_output_tokens": 16, "stream": True},
}

ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/chat/completions",
        summary="Complete a conversation",
        requests=(ChatCompletionRequest,),
        answers={200: Answer("The completion, whole or as events.", (ChatCompletion,))},
        events=(ChatCompletionChunk,),
        errors=_GENERATION_ERRORS,
        rules=_CHAT_RULES,
        examples=_CHAT_EXAMPLES,
    ),
    Endpoint(
        method="POST",
        path="/v1/completions",
        summary="Complete texts",
        requests=(CompletionRequest,),
        answers={200: Answer("The completions, whole or as events.", (Completion,))},
        events=(Completion,),
        errors=_GENERATION_ERRORS,
        rules=_TEXT_RULES,
        examples=_TEXT_EXAMPLES,
    ),
    Endpoint(
        method="POST",
        path="/v1/responses",
        summary="Answer a conversation in items",
        requests=(ResponseRequest,),
        answers={200: Answer("The response, whole or as events.", (Response,))},
        events=RESPONSE_EVENTS,
        last_event=None,
        stream_end="The last one is `response.completed`, `response.incomplete` or `response.failed`.",
        errors=_GENERATION_ERRORS,
        rules=_RESPONSE_RULES,
        examples=_RESPONSE_EXAMPLES,
    ),
    *(
        Endpoint(
            method=method,
            path=f"/v1/responses/{{id}}{rest}",
            summary="Refused: nothing is stored here",
            errors=(NotStoredError,),
        )
        for method, rest in _STORED_RESPONSE
    ),
    Endpoint(
        method="POST",
        path="/v1/embeddings",
        summary="Refused: the served model generates text and makes no embeddings",
        errors=(InvalidRequestError,),
        rules=("There is no request that it takes.",),
    ),
    Endpoint(
        method="GET",
        path="/v1/models",
        summary="List the served model",
        answers={200: Answer("A list of one.", (ModelList,))},
        errors=(EngineError,),
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{model}",
        summary="Describe the served model",
        answers={200: Answer("The model.", (Model,))},
        errors=(UnknownModelError, EngineError),
    ),
    Endpoint(
        method="POST",
        path="/tokenize",
        summary="Turn a text or a conversation into tokens",
        requests=(TokenizeTextRequest, TokenizeChatRequest),
        answers={200: Answer("The tokens.", (Tokens,))},
        errors=_BODY_ERRORS,
        rules=("`model`, if given, is the served one.", *_CONVERSATION_RULES),
        examples={"text": {"prompt": "Hello", "return_token_strs": True}, "conversation": {"messages": _MESSAGES}},
    ),
    Endpoint(
        method="POST",
        path="/detokenize",
        summary="Turn tokens into text",
        requests=(DetokenizeRequest,),
        answers={200: Answer("The text.", (DetokenizedText,))},
        errors=_BODY_ERRORS,
        rules=(_INTEGERS, "`model`, if given, is the served one.", "The tokens are in the model's vocabulary."),
        examples={"tokens": {"tokens": [72, 105]}},
    ),
    Endpoint(
        method="POST",
        path="/invocations",
        summary="Answer whatever the body's shape asks for, as SageMaker and Vertex AI send it",
        requests=(ChatCompletionRequest, CompletionRequest, ResponseRequest, PredictRequest),
        answers={
            200: Answer("What the endpoint of that shape answers.", (ChatCompletion, Completion, Response, Predictions))
        },
        events=(ChatCompletionChunk, Completion, *RESPONSE_EVENTS),
        errors=_GENERATION_ERRORS,
        rules=(
            *_CHAT_RULES,
            _TEXT_RULES[-1],
            *_RESPONSE_RULES[-5:],
            "Each of `instances`, with `parameters` added, is one of the other bodies, and does not ask for a stream.",
        ),
        examples={
            **{f"chat_{name}": example for name, example in _CHAT_EXAMPLES.items()},
            **{f"text_{name}": example for name, example in _TEXT_EXAMPLES.items()},
            **{f"response_{name}": example for name, example in _RESPONSE_EXAMPLES.items()},
        },
    ),
    Endpoint(
        method="GET",
        path="/ping",
        summary="Whether a token could be served now, as load balancers ask",
        answers={200: Answer("Ready."), 204: Answer("Booting."), 503: Answer("Dead, hung or stopping.")},
    ),
    Endpoint(
        method="GET",
        path="/health",
        summary="Whether the process is alive",
        answers={200: Answer("Alive, or booting.", (Health,)), 503: Answer("Dead or hung.", (Health,))},
    ),
    Endpoint(
        method="GET",
        path="/ready",
        summary="Whether a token could be served now",
        answers={200: Answer("Ready.", (ReadyStatus,)), 503: Answer("Booting, stopping or failed.", (ReadyStatus,))},
    ),
    Endpoint(
        method="GET",
        path="/startup",
        summary="The timeline of the boot",
        answers={200: Answer("Booted.", (Startup,)), 503: Answer("Booting, or the boot failed.", (Startup,))},
    ),
    Endpoint(
        method="GET",
        path="/version",
        summary="The version of this function",
        answers={200: Answer("The version.", (Version,))},
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        summary="Metrics for Prometheus",
        answers={200: Answer("The text exposition format.", media_type="text/plain")},
    ),
    Endpoint(
        method="GET",
        path="/openapi.json",
        summary="This description",
        answers={200: Answer("OpenAPI 3.1.", (dict[str, Any],))},
    ),
    Endpoint(
        method="GET",
        path="/docs",
        summary="A page that shows this description",
        answers={200: Answer("The page.", media_type="text/html")},
    ),
)


def errors_of(endpoint: Endpoint, *, needs_key: bool) -> tuple[type[PilotlightError], ...]:
    """What a request to the endpoint may raise."""
    return (*endpoint.errors, AuthenticationError) if needs_key else endpoint.errors
