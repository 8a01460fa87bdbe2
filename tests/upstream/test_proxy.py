"""The function in front of a server: a function of ours as the server, and one that does what servers should not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from handler.engine.snapshot import Snapshot
from handler.requestlog.record import Status
from tests.conftest import TEST_HOME
from tests.postgres import PostgresServer
from tests.server import DEADLINE_S, LoggedServer, ServerProcess, free_port, logged_process, until

MODEL = "smollm2-135m"
CHAT = "/v1/chat/completions"
PARIS: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
}


@pytest.fixture(scope="module")
def proxy(
    server: ServerProcess, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoggedServer]:
    """A function without a model, in front of the one that all tests share."""
    environ = {"ENGINE_URL": f"{server.address}/v1/", "MODEL_NAME": MODEL}
    with logged_process(postgres_server, TEST_HOME, tmp_path_factory.mktemp("spool"), environ) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: LoggedServer) -> AsyncIterator[httpx.AsyncClient]:
    async with proxy.client() as client:
        yield client


async def test_a_whole_answer_is_the_servers_and_has_a_row(proxy: LoggedServer, client: httpx.AsyncClient) -> None:
    answer = await client.post(CHAT, json=PARIS | {"metadata": {"team": "a"}})
    body = answer.json()
    assert answer.status_code == 200
    assert "Paris" in body["choices"][0]["message"]["content"]
    row = await proxy.row(answer.headers["x-request-id"])
    assert body["id"] == f"chatcmpl-{row.request_id}", "the server got our id"
    assert (row.status, row.http_status, row.finish_reason, row.stream) == (Status.SUCCESS, 200, "stop", False)
    assert (row.model_name, row.api_key_id, row.metadata) == (MODEL, "alice", {"team": "a"})
    usage = body["usage"]
    assert (row.prompt_tokens, row.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert row.cached_tokens == usage["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_is_the_servers_and_usage_goes_to_whoever_asked(
    proxy: LoggedServer, client: httpx.AsyncClient, server: ServerProcess, asked: bool
) -> None:
    body = PARIS | {"stream": True} | ({"stream_options": {"include_usage": True}} if asked else {})
    async with httpx.AsyncClient(timeout=DEADLINE_S) as direct:
        for _ in range(2):  # the second one finds the prompt in the cache, as ours will
            expected = await direct.post(f"{server.address}{CHAT}", json=body)
    answer = await client.post(CHAT, json=body)

    def without_ids(text: str) -> list[str]:
        # Where usage is asked for, each event says that there is none yet.
        return [line.partition('"model"')[2] or line for line in text.replace(',"usage":null', "").splitlines()]

    assert without_ids(answer.text) == without_ids(expected.text)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert ('"usage":{' in answer.text) == asked
    row = await proxy.row(answer.headers["x-request-id"])
    assert (row.status, row.finish_reason, row.stream) == (Status.SUCCESS, "stop", True)
    assert (row.prompt_tokens, row.completion_tokens) == (37, 8)
    assert row.ttft_ms is not None
    assert row.duration_ms is not None
    assert 0 < row.ttft_ms <= row.duration_ms


async def test_openais_client_speaks_every_api_through_it(proxy: LoggedServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{proxy.address}/v1", api_key=proxy.key) as client:
        assert [model.id for model in (await client.models.list()).data] == [MODEL]
        text = await client.completions.create(model=MODEL, prompt="The sea", max_tokens=4, temperature=0)
        assert text.usage is not None
        assert text.usage.completion_tokens == 4
        events = [
            event
            async for event in await client.responses.create(
                model=MODEL, input="What is the capital of France?", temperature=0, stream=True
            )
        ]
        assert events[-1].type == "response.completed"
        assert "Paris" in events[-1].response.output_text
        with pytest.raises(openai.BadRequestError, match="generates text"):
            await client.embeddings.create(model=MODEL, input="a")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "asked", "prompt"),
    [
        (CHAT, PARIS, PARIS["messages"]),
        ("/v1/responses", {"model": MODEL, "input": "What is the capital of France?", "temperature": 0}, None),
    ],
)
async def test_prompts_and_completions_are_kept_where_they_are_wanted(
    server: ServerProcess,
    postgres_server: PostgresServer,
    tmp_path: Path,
    path: str,
    asked: dict[str, Any],
    prompt: Any,
    stream: bool,
) -> None:
    environ = {"ENGINE_URL": f"{server.address}/v1/", "MODEL_NAME": MODEL, "LOG_PROMPTS": "1"}
    with logged_process(postgres_server, TEST_HOME, tmp_path / "spool", environ) as proxy:
        async with proxy.client() as client:
            answer = await client.post(path, json=asked | {"stream": stream})
        row = await proxy.row(answer.headers["x-request-id"])
    assert row.completion == "The capital of France is Paris."
    assert row.prompt == (prompt or asked["input"])


async def test_what_the_server_refuses_is_its_answer_and_an_error_in_the_log(
    proxy: LoggedServer, client: httpx.AsyncClient
) -> None:
    answer = await client.post(CHAT, json=PARIS | {"max_tokens": -1})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "max_tokens"
    row = await proxy.row(answer.headers["x-request-id"])
    assert (row.status, row.http_status, row.error_type) == (Status.ERROR, 400, "UpstreamError")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [(b"{", 400, None), (b"[]", 400, None), (b"{}", 400, "model"), (b'{"model":"other"}', 404, "model")],
)
async def test_what_names_no_model_of_the_servers_goes_no_further(
    client: httpx.AsyncClient, body: bytes, status: int, param: str | None
) -> None:
    answer = await client.post(CHAT, content=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_keys_are_the_functions_own(proxy: LoggedServer) -> None:
    async with httpx.AsyncClient(base_url=proxy.address) as nobody:
        assert (await nobody.post(CHAT, json=PARIS)).status_code == 401


async def test_metrics_and_probes_are_the_functions_own(proxy: LoggedServer, client: httpx.AsyncClient) -> None:
    before = await proxy.metric("llm_tokens_generated_total")
    await client.post(CHAT, json=PARIS)
    await client.post(CHAT, json=PARIS | {"stream": True})
    assert await proxy.metric("llm_tokens_generated_total") == before + 16
    assert await proxy.metric("time_to_first_token_seconds_count") >= 2
    await proxy.idle()
    for path in ("/health", "/ready", "/startup"):
        assert (await client.get(path)).status_code == 200
    assert (await client.get("/startup")).json()["phases"][-1]["name"] == "upstream"


async def test_a_client_that_leaves_ends_the_servers_work(
    proxy: LoggedServer, client: httpx.AsyncClient, server: ServerProcess
) -> None:
    async with httpx.AsyncClient(base_url=server.address, timeout=DEADLINE_S) as direct:

        async def running() -> float:
            text = (await direct.get("/metrics")).text
            line = next(line for line in text.splitlines() if line.startswith("num_requests_running{"))
            return float(line.rpartition(" ")[2])

        body = PARIS | {"stream": True, "max_tokens": 4000, "ignore_eos": True}
        async with client.stream("POST", CHAT, json=body) as answer:
            pieces = answer.aiter_raw()  # kept: httpx closes the connection with its last reader
            await anext(pieces)
            request_id = answer.headers["x-request-id"]
            assert await running() == 1

        async def is_idle() -> bool | None:
            return await running() == 0 or None

        await until(is_idle, "an idle server")
    assert (await proxy.row(request_id)).status is Status.CANCELLED


async def test_completions_of_one_request_begin_together(proxy: LoggedServer, client: httpx.AsyncClient) -> None:
    body = PARIS | {"stream": True, "n": 2, "max_tokens": 2000, "ignore_eos": True}
    async with client.stream("POST", CHAT, json=body) as answer:
        lines = answer.aiter_lines()  # kept, as above
        async for line in lines:
            if '"content":"' in line and '"content":""' not in line:
                break
        assert await proxy.metric("num_requests_running") == 2
        assert await proxy.metric("num_requests_waiting") == 0
    await proxy.idle()


@pytest.mark.parametrize(
    ("url", "model", "code", "said"),
    [
        (None, MODEL, 0, "has smollm2-135m"),
        (None, "other", 1, "'other' is not at"),
        ("http://u:hunter2@127.0.0.1:1/v1", MODEL, 1, "u:***@127.0.0.1:1/v1"),
    ],
)
def test_check_asks_the_server(
    server: ServerProcess, tmp_path: Path, url: str | None, model: str, code: int, said: str
) -> None:
    environ = {
        "ENGINE_URL": url or f"{server.address}/v1",
        "MODEL_NAME": model,
        "DATABASE_URL": "none",
        "PILOTLIGHT_HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "handler", "check", "--json"]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    findings = orjson.loads(done.stdout)["findings"]
    assert [finding["subject"] for finding in findings] == ["server", "database", "spool"]
    assert said in findings[0]["detail"]
    assert "hunter2" not in done.stdout + done.stderr


async def test_a_server_with_other_models_ends_the_boot(server: ServerProcess, tmp_path: Path) -> None:
    environ = {"ENGINE_URL": f"{server.address}/v1", "MODEL_NAME": "other", "DATABASE_URL": "none"}
    process = ServerProcess(environ | {"PILOTLIGHT_HOME": str(tmp_path)})
    assert process.wait() == 1
    assert any("has no model 'other'; it has smollm2-135m" in line for line in process.lines)


async def test_requests_wait_for_a_server_that_boots_and_fail_while_it_is_away(
    embedded_snapshot: Snapshot, tmp_path: Path
) -> None:
    upstream_port = free_port()
    environ = {"PILOTLIGHT_HOME": str(TEST_HOME), "DATABASE_URL": "none"}
    ours = {"ENGINE_URL": f"http://127.0.0.1:{upstream_port}/v1", "SPOOL_DIR": str(tmp_path / "a"), "MODEL_NAME": MODEL}
    port = free_port()
    process = ServerProcess(environ | ours, "--port", str(port))
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:

            async def status_of(path: str) -> int | None:
                try:
                    return (await client.get(path)).status_code
                except httpx.TransportError:
                    return None

            assert await until(lambda: status_of("/health"), "a port that answers") == 200
            assert await status_of("/ready") == 503
            waiting = asyncio.create_task(client.post(CHAT, json=PARIS))
            upstream = stack.enter_context(
                ServerProcess(environ | {"SPOOL_DIR": str(tmp_path / "b")}, "--port", str(upstream_port))
            )
            assert "Paris" in (await waiting).text
            assert await status_of("/ready") == 200
            upstream.stop(signal.SIGKILL)
            failed = await client.post(CHAT, json=PARIS)
            assert failed.status_code == 502
            assert failed.json()["error"]["code"] == "upstream_failed"

            async def is_away() -> bool | None:
                return await status_of("/ready") == 503 or None

            await until(is_away, "a server that is known to be away")


@contextlib.asynccontextmanager
async def bad_server(answer: bytes) -> AsyncIterator[str]:
    """A server that has the model, and answers each request with the same bytes; its URL."""
    models = b'{"data":[{"id":"smollm2-135m"}]}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(models), models)
            )
        else:
            writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as listening:
        port = listening.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "stream", "status", "said"),
    [
        (b"", False, 502, "upstream_failed"),
        (b"nonsense\r\n\r\n", False, 502, "upstream_failed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{}", False, 502, "upstream_failed"),
        (b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno", False, 500, "no"),
        (_HEAD + b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', True, 200, "upstream_failed"),
    ],
)
async def test_a_server_that_fails_is_said_to_have_failed(
    tmp_path: Path, answer: bytes, stream: bool, status: int, said: str
) -> None:
    async with bad_server(answer) as url:
        environ = {"ENGINE_URL": url, "MODEL_NAME": MODEL, "DATABASE_URL": "none", "PILOTLIGHT_HOME": str(tmp_path)}
        process = ServerProcess(environ)
        try:
            await asyncio.to_thread(process.__enter__)
            async with httpx.AsyncClient(base_url=process.address, timeout=DEADLINE_S) as client:
                response = await client.post(CHAT, json=PARIS | {"stream": stream})
        finally:
            process.kill()
    assert response.status_code == status
    assert said in response.text
    assert "[DONE]" not in response.text
