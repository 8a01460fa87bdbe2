"""A worker of a RunPod queue: its jobs are requests to the function, which runs in the same container.

A job's input is what RunPod's OpenAI-compatible path makes of a call (`openai_route`, `openai_input`), or the body of a
chat completion, a text completion or a response itself. Whole answers are the job's output; of a stream each event is.
The function boots while the first job is fetched, and holds it until it can answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import runpod

_PORT = os.environ.get("FUNCTION_PORT", "8001")
_ADDRESS = f"http://127.0.0.1:{_PORT}"
_BY_SHAPE = "/invocations"
_CONNECT_S = 60.0
_RETRY_S = 0.05
_CONCURRENCY = int(os.environ.get("MAX_BATCH_SIZE") or 16)
"""Jobs at once: a batch of the function. More would wait in it, while another worker might be free."""


async def handle(job: Mapping[str, Any]) -> AsyncIterator[Any]:
    """The answer of one job, in one piece or event by event."""
    path, body = request_of(job["input"])
    if path == _BY_SHAPE and "model" not in body:
        body["model"] = await _served_name()
    timeout = aiohttp.ClientTimeout(total=None)  # the function has its own: REQUEST_TIMEOUT
    async with aiohttp.ClientSession(timeout=timeout) as session, await _asked(session, path, body) as response:
        if response.status != 200 or not body.get("stream"):
            yield await _whole(response)
            return
        async for line in response.content:
            data = line.decode().removeprefix("data: ").strip()
            if data.startswith("{"):
                yield json.loads(data)


def request_of(job_input: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where a job's input goes, and what is sent there."""
    if "openai_route" in job_input:
        route = str(job_input["openai_route"])
        return (route if route.startswith("/v1") else f"/v1{route}"), dict(job_input.get("openai_input") or {})
    return _BY_SHAPE, dict(job_input)


async def _served_name() -> str:
    """What the function calls its model: whoever writes a job for an endpoint need not know."""
    async with aiohttp.ClientSession() as session, await _asked(session, "/v1/models", {}) as response:
        models: list[dict[str, str]] = json.loads(await response.text())["data"]
        return models[0]["id"]


async def _asked(session: aiohttp.ClientSession, path: str, body: Mapping[str, Any]) -> aiohttp.ClientResponse:
    """The function listens within a second of this process's start, and waits with requests while it boots."""
    headers = {"authorization": f"Bearer {key}"} if (key := _first_key()) else {}
    deadline_s = asyncio.get_running_loop().time() + _CONNECT_S
    while True:
        try:
            if path == "/v1/models":
                return await session.get(f"{_ADDRESS}{path}", headers=headers)
            return await session.post(f"{_ADDRESS}{path}", json=body, headers=headers)
        except aiohttp.ClientConnectorError:
            if asyncio.get_running_loop().time() > deadline_s:
                raise
            await asyncio.sleep(_RETRY_S)


async def _whole(response: aiohttp.ClientResponse) -> Any:
    """An answer, or an error as RunPod has it: a job with `error` has failed."""
    text = await response.text()
    if response.status != 200:
        return {"error": text}
    return json.loads(text)


def _first_key() -> str | None:
    """RunPod has checked its own key already; the function has one of its own only where API_KEYS says so."""
    first = os.environ.get("API_KEYS", "").split(",")[0].strip()
    return first.rpartition(":")[2] or None


def main() -> None:
    """Start the function, then take jobs until RunPod ends the worker."""
    command = ["pilotlight", "serve", "--host", "127.0.0.1", "--port", _PORT]
    with subprocess.Popen(command, stdout=sys.stderr) as function:
        try:
            runpod.serverless.start(
                {
                    "handler": handle,
                    "return_aggregate_stream": True,  # /run and /runsync get all events, /stream each
                    "concurrency_modifier": lambda _: _CONCURRENCY,
                }
            )
        finally:
            function.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                function.wait(60)


if __name__ == "__main__":
    main()
