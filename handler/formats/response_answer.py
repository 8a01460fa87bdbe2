"""The answer of POST /v1/responses, whole or as events. Event loop only."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from handler.choice import Choice
from handler.conversation.output import OutputDelta, OutputParser, TextDelta
from handler.engine.events import FinishReason, TokenEvent
from handler.engine.tokenizer import Tokenizer
from handler.errors import PilotlightError
from handler.formats.format import Head, reason_of
from handler.formats.logprobs import content_logprobs
from handler.formats.response_events import ResponseEvents
from handler.formats.response_output import ResponseOutput
from handler.generation import Generation
from handler.http_errors import error_detail
from handler.schema.chat import ContentLogprob
from handler.schema.codec import encode_json
from handler.schema.response import IncompleteDetails, InputTokensDetails, Response, ResponseError, ResponseUsage
from handler.schema.usage import FinishReason as ReportedReason


class ResponsesAnswer:
    """One response: as it begins, and what its only choice adds to it."""

    def __init__(
        self,
        begun: Response,
        head: Head,
        parser: OutputParser | None,
        generation: Generation,
        tokenizer: Tokenizer,
    ) -> None:
        self._begun = begun
        self._parser = parser
        self._generation = generation
        self._tokenizer = tokenizer
        self._events = ResponseEvents()
        self._output = ResponseOutput(head.request_id, self._events)

    def opening(self) -> bytes:
        """The response, with no output yet."""
        return self._events.response("created", self._begun) + self._events.response("in_progress", self._begun)

    def event(self, choice: Choice, event: TokenEvent) -> bytes:
        """What the step added to the output; with the last one its end."""
        frames = self._read(choice, event.text) if event.text else b""
        return frames if event.finish_reason is None else frames + self._close(choice)

    def closing(self) -> bytes:
        """The complete response. There is no `[DONE]`."""
        ended = self._ended()
        return self._events.response(ended.status, ended)

    def failure(self, error: PilotlightError) -> bytes:
        """The error, and the response that failed with it, as far as it came."""
        detail = error_detail(error)
        reason = ResponseError(detail.message)
        failed = msgspec.structs.replace(self._begun, status="failed", error=reason, output=self._output.items())
        return self._events.error(detail, reason.code) + self._events.response("failed", failed)

    def whole(self) -> bytes:
        """A response."""
        (choice,) = self._generation.choices
        self._read(choice, choice.text)
        self._close(choice)
        return encode_json(self._ended())

    @property
    def texts(self) -> list[str]:
        """The model's own text of each choice."""
        return [choice.text for choice in self._generation.choices]

    @property
    def finish_reason(self) -> ReportedReason:
        """What a chat would call it."""
        (choice,) = self._generation.choices
        return reason_of(choice, self._parser)

    def _read(self, choice: Choice, text: str) -> bytes:
        """What text means for the output."""
        if self._parser is not None:
            return self._add(choice, self._parser.push(text))
        return self._output.add(TextDelta(text), self._logprobs(choice)) if text else b""

    def _close(self, choice: Choice) -> bytes:
        frames = b"" if self._parser is None else self._add(choice, self._parser.finish())
        return frames + self._output.close(_status(choice), self._logprobs(choice))

    def _add(self, choice: Choice, deltas: list[OutputDelta]) -> bytes:
        frames = []
        for index, delta in enumerate(deltas):
            logprobs = self._logprobs(choice)  # those of a call's tokens are reported nowhere
            if logprobs is not None and isinstance(delta, TextDelta) and len(deltas) > index + 1:
                logprobs = _behind(delta.text, logprobs)
            frames.append(self._output.add(delta, logprobs if isinstance(delta, TextDelta) else None))
        return b"".join(frames)

    def _ended(self) -> Response:
        (choice,) = self._generation.choices
        usage, status = self._generation.usage(), _status(choice)
        return msgspec.structs.replace(
            self._begun,
            status=status,
            completed_at=int(time.time()) if status == "completed" else None,
            incomplete_details=IncompleteDetails() if status == "incomplete" else None,
            output=self._output.items(),
            usage=ResponseUsage(
                input_tokens=usage.prompt_tokens,
                input_tokens_details=InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
                output_tokens=usage.completion_tokens,
                total_tokens=usage.total_tokens,
            ),
        )

    def _logprobs(self, choice: Choice) -> list[ContentLogprob] | None:
        entries = choice.take_logprobs()
        return None if entries is None else content_logprobs(entries, self._tokenizer)


def _behind(text: str, logprobs: list[ContentLogprob]) -> list[ContentLogprob]:
    """The log probabilities of the tokens that make `text`, where those of a call follow."""
    missing = len(text.encode())
    for index, entry in enumerate(logprobs):
        if missing <= 0:
            return logprobs[:index]
        missing -= len(entry.bytes)
    return logprobs


def _status(choice: Choice) -> Literal["completed", "incomplete"]:
    return "incomplete" if choice.finish_reason is FinishReason.LENGTH else "completed"
