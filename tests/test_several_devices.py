"""The function on two devices: torch takes any index for the one CPU, so that two engines think they have their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import uvicorn

from handler.cli.announcement import announce
from handler.cli.listener import bind, listener_address
from handler.cli.serve import uvicorn_config
from handler.demand import Demand
from handler.engine.devices import Placement
from handler.engine.pool import EnginePool
from handler.engine.snapshot import Snapshot
from handler.engine.status import EngineState
from handler.errors import InvalidRequestError, OverloadedError
from handler.logs import FIELDS
from tests.asgi import Application
from tests.server import DEADLINE_S, until

TWO = ("cpu:0", "cpu:1")
BROKEN = "meta"  # a device of torch's that no engine can boot on
PROMPTS = [f"{number} green bottles" for number in range(16)]


def application_on(devices: tuple[str, ...], snapshot: Snapshot, directory: Path, **environ: str) -> Application:
    placements = [Placement(device, 1) for device in devices]
    engine_type = partial(EnginePool, place=lambda _: placements)
    return Application(snapshot, directory, {"MAX_BATCH_SIZE": "4"} | environ, engine_type=engine_type)


async def all_booted(application: Application) -> None:
    """Return when every device is ready or has failed."""

    async def look() -> bool | None:
        states = {device.state for device in application.engine.devices}
        return None if EngineState.BOOTING in states or not states else True

    await until(look, "every device has booted")


def engines(application: Application) -> list[Any]:
    pool: Any = application.engine
    return pool._engines


def break_device(application: Application, index: int) -> None:
    """End an engine's thread by an error."""
    engines(application)[index]._inbox.put(lambda core: core.no_such_attribute)


@asynccontextmanager
async def serving(application: Application) -> AsyncIterator[httpx.AsyncClient]:
    """The application under uvicorn on a socket."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn_config(application.app, application.service.settings, listener))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await all_booted(application)
        async with httpx.AsyncClient(base_url=listener_address(listener), timeout=DEADLINE_S) as client:
            yield client
    finally:
        server.should_exit = True
        await task


def body(prompt: str, max_tokens: int) -> dict[str, object]:
    fields = {"temperature": 0, "ignore_eos": True, "stream": True, "max_tokens": max_tokens}
    return {"model": "llama", "prompt": prompt} | fields


async def stream(client: httpx.AsyncClient, prompt: str, max_tokens: int, started: asyncio.Event | None = None) -> str:
    """The text of a completion, or the message of the error that ended it in brackets."""
    text = ""
    async with client.stream("POST", "/v1/completions", json=body(prompt, max_tokens)) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if started is not None:
                started.set()
            if not line or line == "data: [DONE]":
                continue
            event = orjson.loads(line.removeprefix("data: "))
            text += f"[{event['error']['message']}]" if "error" in event else event["choices"][0]["text"]
    return text


async def test_sixteen_streams_get_what_one_device_would_have_said(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path / "one") as alone:
        expected = await asyncio.gather(*(stream(alone.client, prompt, 24) for prompt in PROMPTS))
    application = application_on(TWO, tiny_served, tmp_path / "two")
    async with serving(application) as client:
        texts = await asyncio.gather(*(stream(client, prompt, 24) for prompt in PROMPTS))
        assert texts == expected
        assert len(set(texts)) == len(PROMPTS)
        await application.idle()
        tokens = [device.stats.prefix_query_tokens for device in application.engine.devices]
        assert sum(tokens) == sum(map(len, PROMPTS))
        assert min(tokens) * 3 > sum(tokens)  # half of the work each, or nearly
        metrics = (await client.get("/metrics")).text
        for device in TWO:
            assert f'device_up{{device="{device}",model_name="llama"}} 1.0' in metrics
            assert f'boot_phase_seconds{{device="{device}",phase="weights"}}' in metrics
        assert f'prefix_cache_queries_total{{model_name="llama"}} {sum(tokens)}.0' in metrics


async def test_a_device_that_fails_ends_its_own_streams_and_the_platform_is_told(
    tiny_served: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    application = application_on(TWO, tiny_served, tmp_path)
    async with serving(application) as client:
        started = [asyncio.Event() for _ in range(8)]
        tasks = [
            asyncio.create_task(stream(client, prompt, 900, begun))
            for prompt, begun in zip(PROMPTS, started, strict=False)
        ]
        for begun in started:
            await asyncio.wait_for(begun.wait(), DEADLINE_S)
        break_device(application, 0)
        texts = await asyncio.gather(*tasks)
        assert sum("[the engine failed: AttributeError]" in text for text in texts) == 4
        assert "engine thread failed on cpu:0" in caplog.text
        health = await client.get("/health")
        assert health.status_code == 503
        assert health.json() == {
            "status": "dead",
            "engine": "ready",
            "devices": {"cpu:0": "failed", "cpu:1": "ready"},
        }
        # Until the platform has replaced the instance, it serves.
        assert (await client.get("/ready")).status_code == 200
        later = await asyncio.gather(*(stream(client, prompt, 4) for prompt in PROMPTS))
        assert not any("failed" in text for text in later)
        metrics = (await client.get("/metrics")).text
        assert 'device_up{device="cpu:0",model_name="llama"} 0.0' in metrics
        assert 'num_requests_running{model_name="llama"} 0.0' in metrics
        break_device(application, 1)

        async def unready() -> dict[str, str] | None:
            response = await client.get("/ready")
            return None if response.status_code == 200 else response.json()

        assert await until(unready, "no device is left") == {"status": "failed"}


async def test_a_device_that_cannot_boot_leaves_the_service_degraded(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with application_on((BROKEN, "cpu:1"), tiny_served, tmp_path) as application:
        await all_booted(application)
        client = application.client
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert health.json()["devices"] == {BROKEN: "failed", "cpu:1": "ready"}
        startup = (await client.get("/startup")).json()
        assert startup["error"] is None
        failed, good = startup["devices"]
        assert (failed["device"], failed["state"]) == (BROKEN, "failed")
        assert "neither cpu nor cuda" in failed["error"]
        assert good == {"device": "cpu:1", "state": "ready", "error": None}
        assert {phase["device"] for phase in startup["phases"]} == {None, "cpu:1"}
        assert await stream(client, "a", 3)


async def test_the_house_has_as_many_places_as_the_devices_that_serve(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with application_on(TWO, tiny_served, tmp_path, MAX_QUEUED_REQUESTS="1") as application:
        await all_booted(application)
        admission = application.service.admission
        with (
            pytest.raises(InvalidRequestError, match="at most 9 fit"),
            admission.admit(Demand(completions=10, param="n"), 0),
        ):
            pass
        with admission.admit(Demand(completions=5, param="n"), 0):
            with admission.admit(Demand(completions=4, param="n"), 0):
                pass
            break_device(application, 0)

            async def look() -> bool | None:
                return True if EngineState.FAILED in {d.state for d in application.engine.devices} else None

            await until(look, "the device has failed")
            with pytest.raises(OverloadedError), admission.admit(Demand(param="n"), 0):
                pass


async def test_the_ready_line_names_every_device(
    tiny_served: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with application_on((*TWO, BROKEN), tiny_served, tmp_path) as application:
        await all_booted(application)
        announce(application.service, "http://somewhere")
        (record,) = [record for record in caplog.records if record.message == "ready"]
        fields = getattr(record, FIELDS)
        assert fields["device"] == "cpu:0, cpu:1, meta (failed)"
        assert set(fields["phases_s"]) >= {"import_torch", "cpu:0 weights", "cpu:1 weights"}
