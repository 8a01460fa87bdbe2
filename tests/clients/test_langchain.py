"""LangChain's ChatOpenAI, unchanged, against the real server and the embedded model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

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
