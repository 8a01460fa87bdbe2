"""LangChain's ChatOpenAI, unchanged, against the real server and the embedded model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, SecretStr

from tests.server import ServerProcess

MODEL = "smollm2-135m"
PARIS = "What is the capital of France?"


@pytest.fixture
def options(server: ServerProcess) -> Iterator[dict[str, Any]]:
    """With connections of their own: those that LangChain makes are never closed."""
    given = {"base_url": f"{server.address}/v1", "api_key": SecretStr("none"), "model": MODEL, "max_retries": 0}
    with httpx.Client() as client:
        yield given | {"http_client": client}


def test_chat(options: dict[str, Any]) -> None:
    answer = ChatOpenAI(**options, temperature=0).invoke(PARIS)
    assert "Paris" in answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 8


def test_a_stream_adds_up_to_the_whole_and_ends_with_its_usage(options: dict[str, Any]) -> None:
    llm = ChatOpenAI(**options, temperature=0, stream_usage=True)
    chunks = list(llm.stream(PARIS))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert len(chunks) > 5
    assert whole.content == llm.invoke(PARIS).content
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 8


def test_a_conversation_goes_on(options: dict[str, Any]) -> None:
    llm = ChatOpenAI(**options, temperature=0, max_completion_tokens=16)
    messages = [SystemMessage("Be brief."), HumanMessage([{"type": "text", "text": PARIS}])]
    answer = llm.invoke(messages)
    assert isinstance(answer, AIMessage)
    assert llm.invoke([*messages, answer, HumanMessage("And of Italy?")]).content


def test_every_option_that_it_sends_is_taken(options: dict[str, Any]) -> None:
    llm = ChatOpenAI(
        **options,
        temperature=0.5,
        max_completion_tokens=4,
        seed=1,
        stop_sequences=["\n"],
        logprobs=True,
        top_logprobs=2,
        n=2,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        top_p=0.9,
        logit_bias={5: -1},
        metadata={"team": "a"},
        extra_body={"top_k": 5, "min_p": 0.01},
    )
    answers = llm.generate([[HumanMessage(PARIS)]]).generations[0]
    assert len(answers) == 2
    assert answers[0].message.response_metadata["logprobs"]["content"]


async def test_async_and_in_batches(options: dict[str, Any]) -> None:
    async with httpx.AsyncClient() as client:
        llm = ChatOpenAI(**options, http_async_client=client, temperature=0, max_completion_tokens=4)
        one, several = await asyncio.gather(llm.ainvoke(PARIS), llm.abatch([PARIS, PARIS]))
        assert [answer.content for answer in several] == [one.content] * 2
        assert "".join([chunk.content async for chunk in llm.astream(PARIS)]) == one.content


def test_text_completion(options: dict[str, Any]) -> None:
    llm = OpenAI(**options, temperature=0, max_tokens=8)
    assert llm.invoke("1, 2, 3, 4, 5,").startswith(" 6, 7")
    assert "".join(llm.stream("1, 2, 3, 4, 5,")) == llm.invoke("1, 2, 3, 4, 5,")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Capital(BaseModel):
    """A country's capital."""

    country: str
    city: str


def test_a_tool_is_called_and_its_answer_goes_back(options: dict[str, Any]) -> None:
    llm = ChatOpenAI(**options, temperature=0, max_completion_tokens=64)
    question = HumanMessage("What is 2 plus 3?")
    answer = llm.bind_tools([add], tool_choice="any", parallel_tool_calls=False).invoke([question])
    assert isinstance(answer, AIMessage)
    assert answer.tool_calls
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    call = answer.tool_calls[0]
    assert call["name"] == "add"
    assert set(call["args"]) == {"a", "b"}
    result = add.invoke(call)
    assert isinstance(result, ToolMessage)
    assert result.content == str(call["args"]["a"] + call["args"]["b"])
    assert llm.bind_tools([add], tool_choice="none").invoke([question, answer, result]).content


def test_calls_are_streamed(options: dict[str, Any]) -> None:
    llm = ChatOpenAI(**options, temperature=0, max_completion_tokens=64).bind_tools([add], tool_choice="add")
    chunks = list(llm.stream("What is 2 plus 3?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert len(chunks) > 3
    assert isinstance(whole, AIMessageChunk)
    assert [call["name"] for call in whole.tool_calls] == ["add"]
    assert set(whole.tool_calls[0]["args"]) == {"a", "b"}


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_what_was_asked_for(options: dict[str, Any], method: Any) -> None:
    """`json_mode` asks for an object and leaves its fields to the prompt, so only the other two promise them."""
    llm = ChatOpenAI(**options, temperature=0, max_completion_tokens=64)
    question = 'The capital of France, as JSON with "country" and "city".'
    answer = llm.with_structured_output(Capital, method=method, include_raw=True).invoke(question)
    assert isinstance(answer, dict)
    if method == "json_mode":
        assert isinstance(json.loads(answer["raw"].content), dict)
    else:
        assert isinstance(answer["parsed"], Capital), answer
