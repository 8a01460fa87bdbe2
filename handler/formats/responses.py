"""POST /v1/responses: the items of a conversation become a prompt, a completion a response and its items."""

from __future__ import annotations

from typing import Any

import msgspec

from handler.conversation.planning import plan_conversation
from handler.demand import Demand
from handler.engine.loaded import LoadedModel
from handler.engine.sampling_params import SamplingParams
from handler.formats.format import Head, Plan
from handler.formats.response_answer import ResponsesAnswer
from handler.formats.response_input import conversation_of, output_spec
from handler.generation import Generation
from handler.params import ParamsFactory
from handler.schema.codec import convert_request, decode_object
from handler.schema.response import (
    ReasoningEcho,
    Response,
    ResponseToolEcho,
)
from handler.schema.response_items import ResponseFunctionTool, ResponseTextConfig
from handler.schema.response_refusals import refuse_unsupported
from handler.schema.responses import ResponseRequest
from handler.schema.structured import TextFormat
from handler.structured import check_compatible


class ResponsesFormat:
    """The responses endpoint's requests and answers."""

    def decode(self, body: bytes) -> ResponseRequest:
        """Refuse by name what is not supported, then validate."""
        members = decode_object(body)
        refuse_unsupported(members)
        _name_messages(members.get("input"))
        return convert_request(members, ResponseRequest)

    def demand(self, request: ResponseRequest) -> Demand:
        """A conversation has one answer."""
        return Demand(param="input", max_tokens=request.max_output_tokens, priority=request.priority or 0)

    def is_light(self, request: ResponseRequest) -> bool:
        """Nothing is compiled, and no tools are described."""
        return not request.tools and output_spec(request)[0] is None

    def plan(self, request: ResponseRequest, model: LoadedModel, factory: ParamsFactory) -> Plan:
        """A conversation, planned as every other."""
        planned = plan_conversation(conversation_of(request), model)
        if planned.grammar is not None:
            check_compatible(request, planned.grammar_param)
        prompt = factory.check_prompt(planned.prompt, "input")
        params = factory.build(request, len(prompt), planned.grammar)
        params = msgspec.structs.replace(params, shown_token_ids=planned.shown_token_ids)
        return Plan([prompt], params, 1, parser=planned.parser)

    def answer(
        self, request: ResponseRequest, plan: Plan, head: Head, generation: Generation, model: LoadedModel
    ) -> ResponsesAnswer:
        """A response, or its events."""
        parser = None if plan.parser is None else plan.parser()
        return ResponsesAnswer(_begun(request, head, plan.params), head, parser, generation, model.tokenizer)

    def logged_prompt(self, request: ResponseRequest) -> Any:
        """Instructions and input as they came."""
        return {"instructions": request.instructions, "input": msgspec.to_builtins(request.input)}


def _name_messages(items: object) -> None:
    """Give messages the `type` that they may leave out."""
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and "role" in item:
            item.setdefault("type", "message")


def _begun(request: ResponseRequest, head: Head, params: SamplingParams) -> Response:
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
        prompt_cache_retention=request.prompt_cache_retention,
        reasoning=ReasoningEcho(None if reasoning is None else reasoning.effort),
        safety_identifier=request.safety_identifier,
        temperature=params.temperature,
        text=ResponseTextConfig(format=text.format or TextFormat(), verbosity="medium"),
        tool_choice=request.tool_choice or "auto",
        tools=[_echo(tool) for tool in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=params.top_p,
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
