"""The client that users bring, unchanged, against the real server and the embedded model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from handler.engine.snapshot import Snapshot
from tests.conftest import TEST_HOME
from tests.server import ServerProcess

MODEL = "smollm2-135m"
PARIS: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_paris_whole_and_streaming(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0)
    (choice,) = whole.choices
    assert choice.message.content is not None
    assert "Paris" in choice.message.content
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert whole.id.startswith("chatcmpl-")
    assert whole.model == MODEL
    assert whole.object == "chat.completion"

    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=PARIS, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    *parts, last = chunks
    assert "".join(part.choices[0].delta.content or "" for part in parts) == choice.message.content
    assert [part.choices[0].finish_reason for part in parts] == [None] * (len(parts) - 1) + ["stop"]
    assert len(parts) > 5
    assert {chunk.id for chunk in chunks} != {whole.id}
    assert len({chunk.id for chunk in chunks}) == 1
    assert last.choices == []
    assert last.usage is not None
    assert whole.usage is not None
    for usage in (last.usage, whole.usage):
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (
        whole.usage.prompt_tokens,
        whole.usage.completion_tokens,
    )


def test_completions_whole_and_streaming(client: openai.OpenAI) -> None:
    asking: dict[str, Any] = {"model": MODEL, "prompt": "1, 2, 3, 4, 5,", "temperature": 0, "max_tokens": 8}
    whole = client.completions.create(**asking)
    assert whole.object == "text_completion"
    assert whole.choices[0].text.startswith(" 6, 7")
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    streamed = list(client.completions.create(**asking, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text
    assert streamed[-1].choices[0].finish_reason == "length"
    tokens = client.completions.create(**(asking | {"prompt": [[33, 28], [33]], "max_tokens": 2}))
    assert [choice.index for choice in tokens.choices] == [0, 1]


def test_n_choices_differ_and_are_counted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me a story."}],
        n=3,
        seed=1,
        temperature=1.5,
        max_tokens=8,
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24


def test_n_streams_share_one_response(client: openai.OpenAI) -> None:
    texts = {0: "", 1: "", 2: ""}
    finished = []
    for chunk in client.chat.completions.create(model=MODEL, messages=PARIS, n=3, temperature=0, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            finished.append(choice.index)
    assert sorted(finished) == [0, 1, 2]
    assert len(set(texts.values())) == 1
    assert "Paris" in texts[0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_ends_the_answer_and_is_not_in_it(client: openai.OpenAI, stream: bool) -> None:
    asking: dict[str, Any] = {"model": MODEL, "prompt": "1, 2, 3, 4, 5,", "temperature": 0, "stop": [", 8"]}
    if stream:
        chunks = list(client.completions.create(**asking, stream=True))
        text, reason = "".join(chunk.choices[0].text for chunk in chunks), chunks[-1].choices[0].finish_reason
    else:
        choice = client.completions.create(**asking).choices[0]
        text, reason = choice.text, choice.finish_reason
    assert text == " 6, 7"
    assert reason == "stop"


def test_log_probabilities_of_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=PARIS, temperature=0, logprobs=True, top_logprobs=3, max_tokens=6
    )
    (choice,) = answer.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert len(choice.logprobs.content) == 6
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob <= 0
        # At temperature 0 the chosen token is the likeliest one.
        assert entry.top_logprobs[0].token == entry.token
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)
        assert bytes(entry.bytes or []).decode() == entry.token


def test_log_probabilities_of_a_stream_are_those_of_the_whole(client: openai.OpenAI) -> None:
    asking: dict[str, Any] = {"model": MODEL, "prompt": "1, 2, 3,", "temperature": 0, "max_tokens": 6, "logprobs": 2}
    whole = client.completions.create(**asking).choices[0].logprobs
    assert whole is not None
    tokens: list[str] = []
    offsets: list[int] = []
    for chunk in client.completions.create(**asking, stream=True):
        logprobs = chunk.choices[0].logprobs
        if logprobs is not None:
            tokens += logprobs.tokens or []
            offsets += logprobs.text_offset or []
    assert tokens == whole.tokens
    assert offsets == whole.text_offset
    assert whole.top_logprobs is not None
    assert all(len(top) == 2 for top in whole.top_logprobs)


def test_a_seed_repeats_and_another_does_not(client: openai.OpenAI) -> None:
    def text(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me a story."}],
            seed=seed,
            max_tokens=6,
            temperature=1.5,
        )
        return answer.choices[0].message.content

    assert text(7) == text(7)
    assert text(7) != text(8)


def test_max_tokens_is_told_as_length(client: openai.OpenAI) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        limit: dict[str, Any] = {field: 3}
        answer = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0, **limit)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3


def test_a_long_prompt_asked_twice_comes_from_the_cache(client: openai.OpenAI) -> None:
    prompt = "A cache remembers what it has seen before. " * 60
    cached = []
    for _ in range(2):
        usage = client.completions.create(model=MODEL, prompt=prompt, max_tokens=1).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens or 0)
    assert cached[0] == 0
    assert cached[1] >= 256


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_the_model_is_retrieved_by_its_name(client: openai.OpenAI) -> None:
    assert client.models.retrieve("smollm2-135m").id == "smollm2-135m"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody/knows-it")


def test_an_answer_is_taken_back_as_it_came(client: openai.OpenAI) -> None:
    question = {"role": "user", "content": "Say yes."}
    answer = client.chat.completions.create(model="smollm2-135m", messages=[question], max_tokens=4)
    message = answer.choices[0].message
    echoes = [message, message.model_dump()]
    for echo in echoes:
        messages = [question, echo, question]
        again = client.chat.completions.create(model="smollm2-135m", messages=messages, max_tokens=4)
        assert again.choices[0].message.content


def test_the_async_client(server: ServerProcess) -> None:
    async def ask() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0)
            stream = await client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0, stream=True)
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(parts)

    whole, streamed = asyncio.run(ask())
    assert whole == streamed
    assert "Paris" in streamed


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 3}, "temperature", None),
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", None),
        ({"max_tokens": "many"}, "max_tokens", None),
        ({"max_tokens": 10_000}, "max_tokens", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "x " * 9000}]}, "messages", "context_length_exceeded"),
        ({"extra_body": {"made_up": 1}}, "made_up", None),
        ({"functions": []}, "functions", None),
    ],
)
def test_a_bad_request_is_a_bad_request_error(
    client: openai.OpenAI, fields: dict[str, Any], param: str, code: str | None
) -> None:
    asking: dict[str, Any] = {"model": MODEL, "messages": PARIS} | fields
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**asking, stream=stream)
        error = caught.value
        assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
        assert isinstance(error.body, dict)
        assert param in error.body["message"] or code is not None


def test_an_unknown_model_is_a_not_found_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=PARIS)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.fixture(scope="module")
def narrow_server(embedded_snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Room for one sequence, nobody may wait, and a key is needed."""
    environ = {
        "PILOTLIGHT_HOME": str(TEST_HOME),
        "SPOOL_DIR": str(tmp_path_factory.mktemp("spool")),
        "DATABASE_URL": "none",
        "MAX_BATCH_SIZE": "1",
        "MAX_QUEUED_REQUESTS": "0",
        "API_KEYS": "alice:sk-alice,bob:sk-bob",
    }
    with ServerProcess(environ) as process:
        yield process


def test_a_full_house_is_a_rate_limit_error_that_says_when_to_come_back(narrow_server: ServerProcess) -> None:
    asking: dict[str, Any] = {"model": MODEL, "prompt": "1, 2,", "temperature": 0, "extra_body": {"ignore_eos": True}}
    with openai.OpenAI(base_url=f"{narrow_server.address}/v1", api_key="sk-alice", max_retries=0) as client:
        with client.completions.create(**asking, stream=True) as running:
            next(iter(running))
            for stream in (False, True):
                with pytest.raises(openai.RateLimitError) as caught:
                    client.completions.create(**asking, stream=stream)
                assert caught.value.code == "overloaded"
                assert int(caught.value.response.headers["retry-after"]) >= 1
        # The official client's own retries find the place that the closed stream leaves.
        patient = client.with_options(max_retries=5)
        assert patient.completions.create(**asking, max_tokens=1).choices[0].text


@pytest.mark.parametrize("key", ["sk-mallory", "sk-alice2"])
def test_a_wrong_key_is_an_authentication_error(narrow_server: ServerProcess, key: str) -> None:
    with openai.OpenAI(base_url=f"{narrow_server.address}/v1", api_key=key, max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model=MODEL, messages=PARIS)
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
