"""What an endpoint needs of a wire format."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import msgspec

from handler.choice import Choice
from handler.conversation.output import OutputParser, ParserFactory
from handler.demand import Demand
from handler.engine.events import TokenEvent
from handler.engine.loaded import LoadedModel
from handler.engine.sampling_params import SamplingParams
from handler.errors import PilotlightError
from handler.generation import Generation
from handler.http_errors import error_detail
from handler.params import ParamsFactory, Request
from handler.schema.errors import ErrorDetail
from handler.schema.usage import FinishReason


class Head(msgspec.Struct, frozen=True):
    """What every part of an answer repeats. `created` is in seconds since 1970."""

    request_id: str
    created: int
    model: str
    fingerprint: str


class Echo(msgspec.Struct, frozen=True):
    """A prompt as the answer repeats it: its text, and the character where each of its tokens begins."""

    text: str
    starts: list[int]


class Plan(msgspec.Struct, frozen=True):
    """What a request asks of the engine: `n` completions of each prompt's tokens.

    `echoes` are the prompts where the answer repeats them, else empty.
    `parser` makes what reads each choice's text; None where it is nothing but text.
    """

    prompts: list[list[int]]
    params: SamplingParams
    n: int
    echoes: tuple[Echo, ...] = ()
    parser: ParserFactory | None = None


class Answer(Protocol):
    """Writes one request's answer, whole or as a stream of events, from what its generation has yielded so far."""

    def opening(self) -> bytes:
        """What a stream begins with; may be empty."""

    def event(self, choice: Choice, event: TokenEvent) -> bytes:
        """What one step adds to a choice, which has taken it in already; may be empty."""

    def closing(self) -> bytes:
        """What a stream ends with once every choice has ended."""

    def failure(self, error: PilotlightError) -> bytes:
        """What a stream ends with that has to be cut short."""

    def whole(self) -> bytes:
        """The complete answer, once every choice has ended. May run in the thread pool."""

    @property
    def texts(self) -> list[str]:
        """The model's own text of each choice that the answer has, once it is written."""

    @property
    def finish_reason(self) -> FinishReason:
        """Why its first choice ended, once the answer is written."""


def choice_error(choice: Choice) -> ErrorDetail | None:
    """Why a choice failed, as it stands on the wire."""
    return None if choice.error is None else error_detail(choice.error)


def reason_of(choice: Choice, parser: OutputParser | None) -> FinishReason:
    """Why it ended, once `parser` has read its text."""
    if parser is not None and parser.stops_for_calls and choice.reported_reason == "stop":
        return "tool_calls"
    return choice.reported_reason


RequestT = TypeVar("RequestT", bound=Request)


class Format(Protocol, Generic[RequestT]):
    """One endpoint's requests and answers."""

    def decode(self, body: bytes) -> RequestT:
        """The request; errors are InvalidRequestError."""

    def demand(self, request: RequestT) -> Demand:
        """What it asks for, without tokenizing."""

    def plan(self, request: RequestT, model: LoadedModel, factory: ParamsFactory) -> Plan:
        """Templates, tokens and the checks that need the model. Runs in a thread, or on the loop if light."""

    def is_light(self, request: RequestT) -> bool:
        """Whether a small request's plan is template and tokens only, with nothing to compile that takes long."""

    def answer(self, request: RequestT, plan: Plan, head: Head, generation: Generation, model: LoadedModel) -> Answer:
        """The writer of this request's answer."""

    def logged_prompt(self, request: RequestT) -> Any:
        """What LOG_PROMPTS stores."""
