"""Alerts and dashboard, with the real Prometheus: the rules' own tests, and every query asked of a running function."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from handler.engine.snapshot import Snapshot
from tests.conftest import TEST_HOME
from tests.postgres import PostgresServer
from tests.server import DEADLINE_S, LoggedServer, free_port, logged_process, until

INFRA = Path(__file__).parent.parent.parent / "infra"
RULES = INFRA / "prometheus" / "rules.yml"
DASHBOARD = INFRA / "grafana" / "pilotlight.json"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="there is no prometheus (Debian: apt-get install prometheus)",
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60)


@needs_prometheus
def test_each_alert_goes_off_where_it_should_and_nowhere_else() -> None:
    done = promtool("test", "rules", str(INFRA / "prometheus" / "rules_test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def _without_firing(name: str) -> str:
    """The tests of the rules, with the threshold of one alert out of reach."""
    rules = yaml.safe_load(RULES.read_text())
    (rule,) = (rule for rule in rules["groups"][0]["rules"] if rule["alert"] == name)
    rule["expr"] = f"({rule['expr']}) and on () vector(0) > 0"
    return yaml.safe_dump(rules)


@needs_prometheus
@pytest.mark.parametrize("name", [rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]])
def test_the_rules_tests_notice_an_alert_that_never_goes_off(name: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(_without_firing(name))
    shutil.copy(INFRA / "prometheus" / "rules_test.yml", tmp_path)
    done = promtool("test", "rules", str(tmp_path / "rules_test.yml"))
    assert done.returncode != 0
    assert name in done.stdout + done.stderr


@needs_prometheus
def test_the_configuration_is_one_that_prometheus_takes() -> None:
    for name in ("prometheus", "ray"):
        done = promtool("check", "config", "--syntax-only", str(INFRA / name / "prometheus.yml"))
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_what_its_program_writes() -> None:
    path = INFRA / "grafana" / "dashboard.py"
    spec = importlib.util.spec_from_file_location("dashboard", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert orjson.loads(DASHBOARD.read_bytes()) == module.dashboard()


def queries() -> dict[str, str]:
    """What the dashboard asks, by panel and line."""
    panels = orjson.loads(DASHBOARD.read_bytes())["panels"]
    return {
        f"{panel['title']}: {target['legendFormat']}": target["expr"]
        for panel in panels
        for target in panel.get("targets", ())
    }


@contextmanager
def running_prometheus(directory: Path, scrape: dict[str, Any]) -> Iterator[str]:
    """One that scrapes each second and knows the rules; its address."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [scrape],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@asynccontextmanager
async def under_load(server: LoggedServer) -> AsyncIterator[None]:
    """Streams and whole answers without a pause, some of them refused, until the block ends."""
    body = {"model": "smollm2-135m", "prompt": "The sea " * 40, "max_tokens": 8, "temperature": 0}

    async def ask(client: httpx.AsyncClient, stream: bool) -> None:
        while True:
            await client.post("/v1/completions", json=body | {"stream": stream})
            await client.post("/v1/completions", json=body | {"model": "unknown"})

    async with server.client() as client:
        asking = [asyncio.create_task(ask(client, stream)) for stream in (True, False)]
        try:
            yield
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)


async def ask_prometheus(client: httpx.AsyncClient, query: str) -> list[dict[str, Any]]:
    """The samples of a query now."""
    answer = (await client.get("/api/v1/query", params={"query": query})).json()
    assert answer["status"] == "success", f"{query}: {answer}"
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


@needs_prometheus
@pytest.mark.timeout(180)
async def test_every_panel_has_data_and_every_rule_is_evaluated(
    embedded_snapshot: Snapshot, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    (tmp_path / "prometheus").mkdir()
    with (
        logged_process(postgres_server, TEST_HOME, tmp_path / "spool", {}) as server,
        running_prometheus(
            tmp_path / "prometheus",
            {
                "job_name": "pilotlight",
                "authorization": {"credentials": server.key},
                "static_configs": [{"targets": [server.address.removeprefix("http://")]}],
            },
        ) as address,
    ):
        async with under_load(server), httpx.AsyncClient(base_url=address, timeout=DEADLINE_S) as client:

            async def is_up() -> bool | None:
                try:
                    return True if await ask_prometheus(client, "rate(http_requests_total[5s])") else None
                except (httpx.HTTPError, orjson.JSONDecodeError, ValueError):
                    return None  # it starts

            await until(is_up, "two scrapes")
            waiting = {
                name: query.replace("$instance", ".*").replace("$__rate_interval", "20s")
                for name, query in queries().items()
            }
            assert len(waiting) > 30

            async def look() -> bool | None:
                for name, query in list(waiting.items()):
                    samples = await ask_prometheus(client, query)
                    if samples and all(sample["value"][1] != "NaN" for sample in samples):
                        del waiting[name]
                return True if not waiting else None

            try:
                await until(look, "data for every panel")
            except AssertionError as error:
                raise AssertionError(f"no data for {sorted(waiting)}") from error

            async def evaluated() -> list[dict[str, Any]] | None:
                groups = (await client.get("/api/v1/rules")).json()["data"]["groups"]
                rules = [rule for group in groups for rule in group["rules"]]
                return rules if all(rule["health"] != "unknown" for rule in rules) else None

            rules = await until(evaluated, "every rule evaluated")
            assert {rule["health"] for rule in rules} == {"ok"}, rules
