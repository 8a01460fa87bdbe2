"""POST /v1/responses: the items of a conversation become a prompt, a completion a response and its items."""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec

from handler.engine.loaded import LoadedModel
from handler.engine.tokenizer import Tokenizer
from handler.engine.types import FinishReason, TokenEvent
from handler.errors import InvalidRequestError, PilotlightError
from handler.formats.format import Head, Plan
from handler.formats.logprobs import content_logprobs
from handler.formats.response_events import ResponseEvents
from handler.formats.response_input import messages_of
from handler.formats.response_output import ResponseOutput
from handler.generation import Choice, Generation
from handler.http_errors import error_detail
from handler.params import ParamsFactory
from handler.schema.chat import ContentLogprob
from handler.schema.codec import convert_request, decode_object, encode_json
from handler.schema.response import (
    IncompleteDetails,
    InputTokensDetails,
    ReasoningEcho,
    Response,
    ResponseError,
    ResponseToolEcho,
    ResponseUsage,
)
from handler.schema.response_items import ResponseFunctionTool, ResponseTextConfig, TextFormatText
from handler.schema.response_refusals import refuse_unsupported
from handler.schema.responses import ResponseRequest


class ResponsesFormat:
    """The responses endpoint's requests and answers."""

    def decode(self, body: bytes) -> ResponseRequest:
        """Refuse by name what is not supported, then validate."""
        members = decode_object(body)
        refuse_unsupported(members)
        _name_messages(members.get("input"))
        return convert_request(members, ResponseRequest)

    def count_sequences(self, request: ResponseRequest) -> tuple[int, str]:
        """A conversation has one answer."""
        return 1, "input"

    def plan(self, request: ResponseRequest, model: LoadedModel, factory: ParamsFactory) -> Plan:
        """Render the template, which writes all special tokens itself, and encode."""
        if model.chat_template is None:
            raise InvalidRequestError("The model has no chat template; use /v1/completions", "input")
        for field, value in (("tools", request.tools), ("text.format", request.text and request.text.format)):
            if value and not isinstance(value, TextFormatText):
                raise InvalidRequestError(f"{field}: not supported yet", field)
        text = model.chat_template.render(messages_of(request))
        prompt = factory.check_prompt(model.tokenizer.encode(text, add_special_tokens=False), "input")
        return Plan([prompt], factory.build(request, len(prompt)), 1)

    def answer(
        self, request: ResponseRequest, head: Head, generation: Generation, model: LoadedModel
    ) -> ResponsesAnswer:
        """A response, or its events."""
        return ResponsesAnswer(_begun(request, head, generation), head, generation, model.tokenizer)

    def logged_prompt(self, request: ResponseRequest) -> Any:
        """Instructions and input as they came."""
        return {"instructions": request.instructions, "input": msgspec.to_builtins(request.input)}


class ResponsesAnswer:
    """One response: as it begins, and what its only choice adds to it."""

    def __init__(self, begun: Response, head: Head, generation: Generation, tokenizer: Tokenizer) -> None:
        self._begun = begun
        self._generation = generation
        self._tokenizer = tokenizer
        self._events = ResponseEvents()
        self._output = ResponseOutput(head.request_id, self._events)

    def opening(self) -> bytes:
        """The response, with no output yet."""
        return self._events.response("created", self._begun) + self._events.response("in_progress", self._begun)

    def event(self, choice: Choice, event: TokenEvent) -> bytes:
        """What the step added to the output; with the last one its end."""
        frames = self._output.text(event.text, self._logprobs(choice)) if event.text else b""
        return frames if event.finish_reason is None else frames + self._close(choice)

    def closing(self) -> bytes:
        """The complete response. There is no `[DONE]`."""
        ended = self._ended()
        return self._events.response(ended.status, ended)

    def failure(self, error: PilotlightError) -> bytes:
        """The error, and the response that failed with it, as far as it came."""
        detail = error_detail(error)
        failed = msgspec.structs.replace(
            self._begun, status="failed", error=ResponseError(detail.message), output=self._output.items()
        )
        return self._events.error(detail, ResponseError.code) + self._events.response("failed", failed)

    def whole(self) -> bytes:
        """A response."""
        (choice,) = self._generation.choices
        if choice.text:
            self._output.text(choice.text, self._logprobs(choice))
        self._close(choice)
        return encode_json(self._ended())

    def _close(self, choice: Choice) -> bytes:
        return self._output.close(_status(choice), self._logprobs(choice))

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


def _name_messages(items: object) -> None:
    """Give messages the `type` that they may leave out."""
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and "role" in item:
            item.setdefault("type", "message")


def _status(choice: Choice) -> Literal["completed", "incomplete"]:
    return "incomplete" if choice.finish_reason is FinishReason.LENGTH else "completed"


def _begun(request: ResponseRequest, head: Head, generation: Generation) -> Response:
    """The response before its first token: what was asked for, with the values in effect."""
    text, reasoning = request.text or ResponseTextConfig(), request.reasoning
    return Response(
        id=f"resp_{head.request_id}",
        created_at=head.created,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        model=head.model,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=ReasoningEcho(None if reasoning is None else reasoning.effort),
        safety_identifier=request.safety_identifier,
        temperature=generation.params.temperature,
        text=ResponseTextConfig(format=text.format or TextFormatText(), verbosity="medium"),
        tool_choice=request.tool_choice or "auto",
        tools=[_echo(tool) for tool in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=generation.params.top_p,
        user=request.user,
        metadata=request.metadata or {},
    )


def _echo(tool: ResponseFunctionTool) -> ResponseToolEcho:
    return ResponseToolEcho(
        description=tool.description,
        name=tool.name,
        parameters=tool.parameters,
        strict=tool.strict is not False,
    )
