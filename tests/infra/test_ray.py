"""The function on a real Ray cluster of two nodes. Ray has an environment of its own: `make platforms`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
import yaml

from handler.engine.snapshot import Snapshot
from tests.conftest import TEST_HOME
from tests.infra.ray_cluster import FOLDER, RayCluster, ray_cluster
from tests.infra.test_observability import ask_prometheus, needs_prometheus, running_prometheus
from tests.postgres import PostgresServer
from tests.server import DEADLINE_S, until

PYTHON = os.environ.get("RAY_PYTHON", "")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Tell me a long story."}]
BY_INSTANCE = 'sum by (instance) (http_requests_total{method="POST", status="200"})'
QUICK = {
    "autoscaling_config": {
        "max_replicas": 2,
        "target_ongoing_requests": 2,
        "look_back_period_s": 2,
        "upscale_delay_s": 0.5,
        "downscale_delay_s": 3,
        "downscale_to_zero_delay_s": 3,
    },
    "health_check_period_s": 1,
    "ray_actor_options": {"num_cpus": 1},
}
"""Of each node's one processor, so that two replicas are on two nodes."""

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="RAY_PYTHON names no interpreter with Ray and the function: make platforms"),
    pytest.mark.timeout(600),
]


def request_id(answer: httpx.Response) -> str:
    """Ray's proxy says it once more than the function does."""
    (found,) = set(answer.headers.get_list("x-request-id"))
    return found


class Serving:
    """The cluster, and the request log of all replicas."""

    def __init__(self, cluster: RayCluster, database: str) -> None:
        self.cluster = cluster
        self.answers: set[str] = set()
        self._database = database

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=self.cluster.address, timeout=DEADLINE_S) as client:
            yield client

    async def ask(self, client: httpx.AsyncClient) -> str:
        body = {"model": "smollm2-135m", "messages": QUESTION, "temperature": 0}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        self.answers.add(request_id(answer))
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    @asynccontextmanager
    async def stream(self, client: httpx.AsyncClient, tokens: int) -> AsyncIterator[httpx.Response]:
        body = {"model": "smollm2-135m", "messages": STORY, "stream": True, "max_tokens": tokens, "ignore_eos": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield answer

    async def rows(self) -> dict[str, dict[str, Any]]:
        connection = await asyncpg.connect(self._database)
        try:
            found = await connection.fetch("SELECT request_id, status, instance_id, cold_start FROM request_logs")
        finally:
            await connection.close()
        return {row["request_id"]: dict(row) for row in found}


@pytest.fixture(scope="module")
def serving(embedded_snapshot: Snapshot, postgres_server: PostgresServer) -> Iterator[Serving]:
    name, database = postgres_server.create_database()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        environ = {
            "PATH": os.environ["PATH"],
            "PILOTLIGHT_HOME": str(TEST_HOME),
            "SPOOL_DIR": f"{directory}/spool",
            "DATABASE_URL": database,
            "MODEL_NAME": embedded_snapshot.name,
        }
        with ray_cluster(PYTHON, Path(directory), environ) as cluster:
            cluster.deploy(QUICK)
            yield Serving(cluster, database)
    postgres_server.drop_database(name)


async def test_the_first_request_starts_a_replica_and_is_answered(serving: Serving) -> None:
    assert serving.cluster.replicas() == []
    async with serving.client() as client:
        assert "Paris" in await serving.ask(client)

        async def logged() -> dict[str, Any] | None:
            return (await serving.rows()).get(next(iter(serving.answers)))

        row = await until(logged, "the request is logged")
    assert (row["status"], row["cold_start"]) == ("success", True)


async def test_a_stream_comes_as_it_is_generated(serving: Serving) -> None:
    async with serving.client() as client, serving.stream(client, 64) as answer:
        times_s = [time.monotonic() async for line in answer.aiter_lines() if line.startswith("data: {")]
        serving.answers.add(request_id(answer))
    assert len(times_s) > 30
    assert times_s[-1] - times_s[0] > 10 * max(0.001, times_s[1] - times_s[0])


async def test_what_a_client_leaves_is_no_longer_computed(serving: Serving) -> None:
    async with serving.client() as client:
        async with serving.stream(client, 4000) as answer:
            async for line in answer.aiter_lines():
                if '"content":"' in line.replace('"content":""', ""):
                    break

        async def logged() -> dict[str, Any] | None:
            return (await serving.rows()).get(request_id(answer))

        assert (await until(logged, "the request is logged"))["status"] == "cancelled"


@needs_prometheus
async def test_load_brings_a_second_replica_and_metrics_come_from_both(serving: Serving, tmp_path: Path) -> None:
    is_over = asyncio.Event()

    async def keep_asking(client: httpx.AsyncClient) -> None:
        while not is_over.is_set():
            assert "Paris" in await serving.ask(client)

    async with serving.client() as client:
        asking = [asyncio.create_task(keep_asking(client)) for _ in range(8)]
        try:
            both = await asyncio.to_thread(serving.cluster.wait_for, "two replicas", lambda found: len(found) == 2)
            assert len({replica.node_id for replica in both}) == 2

            async def both_answered() -> bool | None:
                instances = {row["instance_id"] for row in (await serving.rows()).values()}
                return len(instances) >= 2 or None

            await until(both_answered, "both replicas answer")

            with running_prometheus(tmp_path, scraping(serving.cluster)) as address:
                async with httpx.AsyncClient(base_url=address, timeout=DEADLINE_S) as prometheus:

                    async def both_counted() -> bool | None:
                        try:
                            samples = await ask_prometheus(prometheus, BY_INSTANCE)
                        except (httpx.HTTPError, ValueError):
                            return None  # it starts
                        instances = [each["metric"]["instance"] for each in samples if float(each["value"][1]) > 0]
                        return len(instances) == 2 or None

                    await until(both_counted, "both replicas' requests are counted")
        finally:
            is_over.set()
            await asyncio.gather(*asking)


def scraping(cluster: RayCluster) -> dict[str, Any]:
    """As prometheus.yml has it, of this cluster."""
    (scrape,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = scrape["file_sd_configs"]
    assert found["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
    found["files"] = [str(cluster.directory / "prom_metrics_service_discovery.json")]
    assert isinstance(scrape, dict)
    return scrape


async def test_a_replica_that_is_killed_takes_its_own_answers_only(serving: Serving) -> None:
    async with serving.client() as client:

        async def end_of_stream() -> str:
            try:
                async with serving.stream(client, 400) as answer:
                    text = "".join([line + "\n" async for line in answer.aiter_lines()])
            except httpx.RemoteProtocolError:
                return "broken"
            assert "data: [DONE]" in text
            serving.answers.add(request_id(answer))
            return "whole"

        async def end_of_answer() -> str:
            body = {"model": "smollm2-135m", "messages": STORY, "max_tokens": 400, "ignore_eos": True}
            answer = await client.post("/v1/chat/completions", json=body)
            if answer.status_code != 200:
                return str(answer.status_code)
            serving.answers.add(request_id(answer))
            return "whole"

        both = await asyncio.to_thread(serving.cluster.wait_for, "two replicas", lambda found: len(found) == 2)
        streams = [asyncio.create_task(end_of_stream()) for _ in range(6)]
        answers = [asyncio.create_task(end_of_answer()) for _ in range(6)]

        async def begun() -> bool | None:
            """Whether both replicas compute some of them."""
            running = await running_by_replica(serving.cluster)
            return (len(running) == 2 and all(running)) or None

        await until(begun, "both compute")
        os.kill(both[0].pid, signal.SIGKILL)
        ends = Counter(await asyncio.gather(*streams, *answers))
        assert "Paris" in await serving.ask(client)
    assert set(ends) == {"whole", "broken", "500"}
    replicas = await asyncio.to_thread(serving.cluster.wait_for, "another replica", lambda found: both[0] not in found)
    assert both[0].pid not in [replica.pid for replica in replicas]


async def running_by_replica(cluster: RayCluster) -> list[float]:
    """How many sequences each replica computes, by the metrics that Ray exports."""
    (entry,) = orjson.loads((cluster.directory / "prom_metrics_service_discovery.json").read_bytes())
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        texts = [(await client.get(f"http://{target}/metrics")).text for target in entry["targets"]]
    lines = [line for text in texts for line in text.splitlines()]
    return [float(line.split()[-1]) for line in lines if line.startswith("ray_pilotlight_num_requests_running{")]


async def test_without_requests_no_replica_is_left_and_every_answer_has_its_row(serving: Serving) -> None:
    await asyncio.to_thread(serving.cluster.wait_for, "no replicas", lambda found: not found)

    async def all_logged() -> bool | None:
        return serving.answers <= (await serving.rows()).keys() or None

    await until(all_logged, "every answer has its row")
    async with serving.client() as client:
        assert "Paris" in await serving.ask(client)


async def test_a_session_stays_with_a_replica_where_ray_is_told_so(serving: Serving) -> None:
    """The block that README.md gives, for prompts whose beginning a replica has computed already."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    serving.cluster.shut_down()
    serving.cluster.deploy(yaml.safe_load(block) | {"autoscaling_config": {"min_replicas": 2}})
    await asyncio.to_thread(serving.cluster.wait_for, "two replicas", lambda found: len(found) == 2)
    async with serving.client() as client:

        async def stay() -> bool | None:
            """Whether each of eight sessions has one replica, and both have some. By chance: once in 65,000 times."""
            instances: dict[str, set[str]] = defaultdict(set)
            for number in range(24):
                session = f"session-{number % 8}"
                body = {"model": "smollm2-135m", "messages": QUESTION, "max_tokens": 1}
                answer = await client.post("/v1/chat/completions", json=body, headers={"x-session-id": session})
                asked = request_id(answer)

                async def logged(asked: str = asked) -> dict[str, Any] | None:
                    return (await serving.rows()).get(asked)

                instances[session].add((await until(logged, "the request is logged"))["instance_id"])
            used = instances.values()
            return (all(len(found) == 1 for found in used) and len(set().union(*used)) == 2) or None

        await until(stay, "sessions stay")


LOST = """
import asyncio
from types import SimpleNamespace
from prometheus_client import CollectorRegistry
from replicas import EngineLostError, Function

replica = Function.func_or_class.__new__(Function.func_or_class)
service = SimpleNamespace(metrics=SimpleNamespace(registry=CollectorRegistry()), is_lost=False, loss="cuda:0: gone")
replica._export, replica._asgi_app = None, SimpleNamespace(state=SimpleNamespace(service=service))
asyncio.run(replica.check_health())
service.is_lost = True
try:
    asyncio.run(replica.check_health())
except EngineLostError as error:
    print(error)
"""


def test_a_replica_whose_engine_is_lost_is_not_healthy() -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(FOLDER)}
    done = subprocess.run([PYTHON, "-c", LOST], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout == "cuda:0: gone\n", done.stderr
