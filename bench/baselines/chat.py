"""What an application does with a chat request, whatever framework brings it: key, prompt, parameters, engine, record.

Any thread may call. Knows no framework, no event loop and no wire format; `async_chat` and `threaded_chat` wait for
what the engine has to say. The function's own admission, deadlines, metrics, rate limits and log lines have no
counterpart here: what is compared does less for each request than the function.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import msgspec

from bench.baselines.answers import Head
from bench.baselines.sampling import sampling_params
from bench.baselines.schema import ChatRequest, Message
from handler.auth import Authenticator
from handler.choice import Choice
from handler.engine.events import OnEvent, TokenEvent
from handler.engine.listeners import Handle
from handler.engine.loaded import LoadedModel
from handler.engine.sampling_params import SamplingParams
from handler.engine.status import EngineState
from handler.errors import (
    ContextLengthError,
    InvalidRequestError,
    PilotlightError,
    SpoolError,
    StartingError,
    UnknownModelError,
)
from handler.fingerprint import system_fingerprint
from handler.http_errors import http_error
from handler.randomness import DIGITS
from handler.service import ServesModel
from handler.settings import Settings
from handler.trace import RequestTrace

CHAT_PATH = "/v1/chat/completions"

_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CLIENT_CLOSED_REQUEST = 499
_DRAWN_REQUESTS = 256

_log = logging.getLogger(__name__)


class _Randomness(threading.local):
    """Random digits for many requests at once, as the function draws them: each call lets go of the interpreter."""

    left: Iterator[str] = iter(())

    def take(self) -> str:
        """Those of one request."""
        taken = next(self.left, None)
        if taken is None:
            drawn = os.urandom(_DRAWN_REQUESTS * DIGITS // 2).hex()
            self.left = (drawn[start : start + DIGITS] for start in range(0, len(drawn), DIGITS))
            taken = next(self.left)
        return taken


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the engine can work on."""

    trace: RequestTrace
    head: Head
    prompt: list[int]
    params: SamplingParams
    with_usage: bool


class Chat:
    """The chat endpoint without its HTTP.

    Args:
        settings: of the function.
        engine: started by whoever owns it.
        keep: takes a request's record.
    """

    def __init__(self, settings: Settings, engine: ServesModel, keep: Callable[[RequestTrace], None]) -> None:
        self._settings = settings
        self._engine = engine
        self._keep = keep
        self._authenticator = Authenticator(settings.api_keys)
        self._instance_id = uuid.uuid4().hex[:12]
        self._fingerprint: str | None = None
        self._randomness = _Randomness()

    @property
    def is_ready(self) -> bool:
        """Whether a token could be generated now."""
        return self._engine.state is EngineState.READY

    def begin(self, given_id: str | None) -> RequestTrace:
        """A new request's trace, under the client's own id if that is a valid one."""
        is_valid = given_id is not None and _VALID_REQUEST_ID.fullmatch(given_id)
        randomness = self._randomness.take()
        return RequestTrace(
            request_id=given_id if given_id is not None and is_valid else randomness[:32],
            endpoint=CHAT_PATH,
            salt=randomness[33:],
            cold_start=not self.is_ready,
        )

    def admit(self, trace: RequestTrace, authorization: str | None) -> None:
        """Note whose key it is.

        Raises:
            AuthenticationError: no key, or an unknown one.
        """
        trace.api_key_id = self._authenticator.identify(authorization)

    def prepare(self, trace: RequestTrace, request: ChatRequest) -> Job:
        """Render the template, encode the prompt, and check what needs the model.

        Raises:
            RequestError: the request cannot be served as it is.
            StartingError: the model is not loaded yet.
        """
        trace.model_name, trace.stream, trace.metadata = request.model, bool(request.stream), request.metadata
        served = self._engine.snapshot.name
        if request.model != served:
            raise UnknownModelError(f"The model {request.model!r} is not served here; use {served!r}", "model")
        model = self._engine.model
        if model is None:
            raise StartingError("The model is being loaded", 1.0)
        prompt = _prompt(request.messages, model)
        params = sampling_params(request, len(prompt), model, self._settings)
        trace.prompt_tokens, trace.completion_tokens = len(prompt), 0
        head = Head(
            request_id=trace.request_id,
            created=int(trace.created_s),
            model=served,
            fingerprint=self._fingerprint_of(model),
            prompt_tokens=len(prompt),
        )
        with_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        return Job(trace=trace, head=head, prompt=prompt, params=params, with_usage=with_usage)

    def submit(self, job: Job, on_event: OnEvent) -> Handle:
        """Have the engine begin; `on_event` is called on the thread that the engine's owner chose.

        Raises:
            EngineError: the engine has ended.
        """
        return self._engine.submit(job.prompt, job.params, on_event)

    def close(self, trace: RequestTrace, http_status: int | None) -> None:
        """The last byte goes out next: keep the record. None: the client left before the response began."""
        trace.http_status = http_status or _CLIENT_CLOSED_REQUEST
        trace.end_s = time.monotonic()
        trace.seal(self._instance_id)
        try:
            self._keep(trace)
        except SpoolError:
            _log.exception("record not spooled")

    def fail(self, trace: RequestTrace, error: PilotlightError) -> None:
        """The request is answered with an error next."""
        trace.fail(error)
        self.close(trace, http_error(error).status)

    def _fingerprint_of(self, model: LoadedModel) -> str:
        if self._fingerprint is None:
            self._fingerprint = system_fingerprint(self._engine.snapshot, model.info)
        return self._fingerprint


def take(job: Job, choice: Choice, event: TokenEvent) -> None:
    """Add an event to the choice, and note in the trace what it says of the request."""
    choice.add(event)
    trace = job.trace
    if trace.first_scheduled_s is None:
        trace.first_scheduled_s = event.first_scheduled_s
    if event.token_ids:
        if trace.first_token_s is None:
            trace.first_token_s = time.monotonic()
            trace.cached_tokens = event.cached_tokens
        trace.completion_tokens = choice.completion_tokens
    if event.finish_reason is not None:
        trace.finish_reason = choice.reported_reason


def _prompt(messages: list[Message], model: LoadedModel) -> list[int]:
    if model.chat_template is None:
        raise InvalidRequestError("The model has no chat template", "messages")
    text = model.chat_template.render([_template_message(message) for message in messages])
    model.check_length(text, "messages")
    prompt = model.tokenizer.encode(text, add_special_tokens=False)
    if not prompt:
        raise InvalidRequestError("messages: the prompt has no tokens", "messages")
    if len(prompt) >= model.info.max_model_len:
        raise ContextLengthError(
            f"messages: the prompt has {len(prompt)} tokens; the model's context holds {model.info.max_model_len}, "
            "of which at least one must be left to generate",
            "messages",
        )
    return prompt


def _template_message(message: Message) -> dict[str, str]:
    content = message.content
    shaped = {
        "role": "system" if message.role == "developer" else message.role,
        "content": content if isinstance(content, str) else "".join(part.text for part in content),
    }
    return shaped if message.name is None else shaped | {"name": message.name}
