"""Event sequences as recorded, byte for byte: what a client of the Responses API may rely on.

`recorded/` holds them; a change of theirs is a change of the contract. Delete one to record it anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from handler.conversation.call_parser import CallParser
from handler.engine.events import FinishReason, OnEvent, TokenEvent, TokenLogprob
from handler.engine.listeners import Handle
from handler.engine.sampling_params import SamplingParams
from handler.engine.tool_syntax import ToolSyntax
from handler.errors import DeadlineExceededError
from handler.formats.format import Head, Plan
from handler.formats.response_answer import ResponsesAnswer
from handler.formats.responses import ResponsesFormat
from handler.generation import Generation
from handler.metrics import Metrics
from handler.trace import RequestTrace

RECORDED = Path(__file__).parent / "recorded"
EVENT = TypeAdapter[ResponseStreamEvent](ResponseStreamEvent)
PROMPT = [1, 2, 3]
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


class ScriptedEngine:
    """Yields each text as one token."""

    def __init__(self, texts: Sequence[str], finish_reason: FinishReason | None, *, with_logprobs: bool) -> None:
        self._texts = texts
        self._finish_reason = finish_reason
        self._with_logprobs = with_logprobs

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        for token_id, text in enumerate(self._texts):
            logprobs = (TokenLogprob(token_id, -0.5),) if self._with_logprobs else None
            on_event(TokenEvent(text=text, token_ids=(token_id,), logprobs=logprobs))
        if self._finish_reason is not None:
            on_event(TokenEvent(token_ids=(len(self._texts),), finish_reason=self._finish_reason))
        return Handle.__new__(Handle)  # nothing is cancelled here


def _hermes() -> CallParser:
    return CallParser(ToolSyntax.HERMES, frozenset({"get_weather"}))


def begin(
    texts: Sequence[str],
    finish_reason: FinishReason | None,
    fields: dict[str, Any],
) -> tuple[ResponsesAnswer, Generation]:
    """The answer to a request, and the generation that it writes about."""
    form = ResponsesFormat()
    request = form.decode(orjson.dumps({"model": "tiny", "input": "hello", "metadata": {"a": "b"}} | fields))
    params = SamplingParams(max_tokens=9, temperature=0.5)
    plan = Plan([PROMPT], params, 1, parser=_hermes if "tools" in fields else None)
    trace = RequestTrace("r1", "/v1/responses", cold_start=False)
    loop = asyncio.get_running_loop()
    generation = Generation(plan.prompts, plan.params, plan.n, trace, Metrics("tiny"), loop)
    tokenizer = SimpleNamespace(token_bytes=lambda token_id: texts[token_id].encode())
    model: Any = SimpleNamespace(tokenizer=tokenizer)
    generation.submit(ScriptedEngine(texts, finish_reason, with_logprobs="include" in fields))
    return form.answer(request, plan, Head("r1", 1_700_000_000, "tiny", "fp_1"), generation, model), generation


async def stream(texts: Sequence[str], finish_reason: FinishReason, **fields: Any) -> bytes:
    answer, generation = begin(texts, finish_reason, fields)
    frames = [answer.opening()]
    while not generation.has_ended:
        frames += [answer.event(choice, event) for choice, event in await generation.arrivals()]
    return b"".join([*frames, answer.closing()])


async def whole(texts: Sequence[str], finish_reason: FinishReason, **fields: Any) -> bytes:
    answer, generation = begin(texts, finish_reason, fields)
    await generation.finish()
    return answer.whole()


def check_recorded(name: str, frames: bytes) -> None:
    """The stream is the recorded one, but for the second in which it ended and the random ids of its calls."""
    for number, call_id in enumerate(dict.fromkeys(re.findall(rb"call_[0-9a-f]{24}", frames))):
        frames = frames.replace(call_id, b"call_%d" % number)
    frames = re.sub(rb'"completed_at":\d+', b'"completed_at":1700000001', frames)
    for frame in frames.removesuffix(b"\n\n").split(b"\n\n"):
        event = orjson.loads(frame.split(b"\ndata: ", 1)[1])
        EVENT.validate_python(event, strict=True)
    path = RECORDED / name
    if not path.exists():
        path.write_bytes(frames)
        pytest.fail(f"{name} was recorded: look at it, and run again")
    assert frames.decode() == path.read_text(encoding="utf-8")


CALLS = [
    "Let me",
    " look.\n",
    "<tool_call>\n",
    '{"name": "get_weather", "arguments": {"city"',
    ': "Oslo"}}\n',
    '</tool_call>\n<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>',
]


async def test_a_text() -> None:
    check_recorded("text.sse", await stream(["Hel", "lo \u2603\n", ""], FinishReason.STOP))


async def test_a_text_that_is_cut() -> None:
    check_recorded("text_incomplete.sse", await stream(["Hel"], FinishReason.LENGTH, max_output_tokens=2))


async def test_no_text_at_all_is_an_empty_message() -> None:
    check_recorded("empty.sse", await stream([], FinishReason.STOP))


async def test_calls_after_a_text() -> None:
    check_recorded("calls.sse", await stream(CALLS, FinishReason.STOP, tools=[WEATHER]))


async def test_a_call_that_is_cut() -> None:
    check_recorded("call_incomplete.sse", await stream(CALLS[2:4], FinishReason.LENGTH, tools=[WEATHER]))


async def test_a_call_that_a_stop_string_cuts_is_not_complete() -> None:
    last = orjson.loads((await stream(CALLS[2:4], FinishReason.STOP, tools=[WEATHER])).split(b"\ndata: ")[-1])[
        "response"
    ]
    assert last["status"] == "completed"
    assert [item["status"] for item in last["output"]] == ["incomplete"]


async def test_an_error_in_mid_stream() -> None:
    answer, generation = begin(["Hel"], None, {})
    frames = answer.opening() + answer.event(*next(await generation.arrivals()))
    check_recorded("failed.sse", frames + answer.failure(DeadlineExceededError("The request took longer than 1 s")))


@pytest.mark.parametrize("finish_reason", [FinishReason.STOP, FinishReason.LENGTH])
@pytest.mark.parametrize(("texts", "tools"), [(["Hel", "lo"], []), (CALLS, [WEATHER]), (CALLS[:4], [WEATHER])])
async def test_the_whole_answer_is_what_the_last_event_carries(
    texts: list[str], tools: list[Any], finish_reason: FinishReason
) -> None:
    answer = await whole(texts, finish_reason, tools=tools)
    last = (await stream(texts, finish_reason, tools=tools)).split(b"\ndata: ")[-1]
    TypeAdapter(Response).validate_python(orjson.loads(answer), strict=True)

    def stable(response: dict[str, Any]) -> dict[str, Any]:
        calls = {"output": [item | {"call_id": "random"} for item in response["output"]]}
        return response | calls | {"completed_at": None}

    assert stable(orjson.loads(answer)) == stable(orjson.loads(last)["response"])


async def test_log_probabilities_are_those_of_the_text_and_not_of_the_calls() -> None:
    fields: dict[str, Any] = {"tools": [WEATHER], "include": ["message.output_text.logprobs"]}
    streamed = (await stream(CALLS, FinishReason.STOP, **fields)).split(b"\ndata: ")[-1]
    for answer in (orjson.loads(await whole(CALLS, FinishReason.STOP, **fields)), orjson.loads(streamed)["response"]):
        (part,) = answer["output"][0]["content"]
        assert [entry["token"] for entry in part["logprobs"]] == ["Let me", " look.\n"]
