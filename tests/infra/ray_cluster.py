"""A Ray cluster of two nodes on this machine, as `ray start` and `serve deploy` make one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import yaml

from tests.server import SINGLE_THREAD, free_port

FOLDER = Path(__file__).parent.parent.parent / "infra" / "ray"
START_S = 180.0


class Replica(msgspec.Struct, frozen=True):
    """One that runs."""

    pid: int
    node_id: str


class RayCluster:
    """Two nodes that run.

    Attributes:
        address: where Ray's proxies take requests.
        dashboard: where Ray answers questions about itself.
        directory: where Ray keeps its files.
    """

    def __init__(self, address: str, dashboard: str, serve: Path, directory: Path) -> None:
        self.address = address
        self.directory = directory
        self.dashboard = dashboard
        self._serve = serve
        self._config: dict[str, Any] = yaml.safe_load((FOLDER / "serve.yaml").read_text())
        self._config["http_options"] |= {"host": "127.0.0.1", "port": int(address.rpartition(":")[2])}

    def deploy(self, changes: Mapping[str, Any]) -> None:
        """Have the function served as serve.yaml says, with these changes to it and to those before."""
        (deployment,) = self._config["applications"][0]["deployments"]
        for key, value in changes.items():
            deployment[key] = deployment.get(key, {}) | value if isinstance(value, dict) else value
        path = self.directory / "serve.yaml"
        path.write_text(yaml.safe_dump(self._config))
        self._run("deploy", str(path))
        deadline_s = time.monotonic() + START_S
        while not self._is_served():
            assert time.monotonic() < deadline_s, "it is never served"
            time.sleep(0.1)

    def shut_down(self) -> None:
        """Have nothing served, and no proxy."""
        self._run("shutdown", "--yes")

    def _run(self, command: str, *arguments: str) -> None:
        environ = SINGLE_THREAD | {"PATH": os.environ["PATH"], "PYTHONPATH": str(FOLDER)}
        done = subprocess.run(
            [str(self._serve), command, "--address", self.dashboard, *arguments],
            env=environ,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _is_served(self) -> bool:
        """Whether the proxies know it."""
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{self.address}/-/routes", timeout=5)
            return answer.status_code == httpx.codes.OK and answer.json() == {"/": "pilotlight"}
        return False

    def replicas(self) -> list[Replica]:
        """Those that run, as Ray's own interface has them."""
        answer = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=30).raise_for_status()
        deployments = answer.json()["applications"]["pilotlight"]["deployments"]
        replicas = deployments["Function"]["replicas"] if deployments else []
        return [Replica(each["pid"], each["node_id"]) for each in replicas if each["state"] == "RUNNING"]

    def wait_for(self, what: str, is_met: Callable[[list[Replica]], bool]) -> list[Replica]:
        """Look at the replicas until they are as they should be."""
        deadline_s = time.monotonic() + START_S
        while not is_met(replicas := self.replicas()):
            assert time.monotonic() < deadline_s, f"never happened: {what}; there are {replicas}"
            time.sleep(0.1)
        return replicas


@contextmanager
def ray_cluster(python: str, directory: Path, environ: Mapping[str, str]) -> Iterator[RayCluster]:
    """Two nodes on which nothing is served yet.

    Args:
        python: an interpreter with Ray and the function.
        directory: for Ray's files; its path must be short, for it has sockets in it.
        environ: of the replicas.
    """
    port, programs = free_port(), Path(python).parent
    cluster = RayCluster(
        f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}", programs / "serve", directory / "ray"
    )
    dashboard_port = cluster.dashboard.rpartition(":")[2]
    ray = [str(programs / "ray"), "start", "--block", "--num-cpus=1", "--num-gpus=0", "--disable-usage-stats"]
    head = ["--head", f"--port={port}", f"--dashboard-port={dashboard_port}", f"--temp-dir={cluster.directory}"]
    given = SINGLE_THREAD | dict(environ) | {"PYTHONPATH": str(FOLDER), "RAY_metrics_report_interval_ms": "1000"}
    given |= {"RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0"}  # as README.md has it
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((directory / "log").open("wb"))
        for node in (head, [f"--address=127.0.0.1:{port}"]):
            process = subprocess.Popen([*ray, *node], env=given, stdout=log, stderr=log, start_new_session=True)
            stack.callback(_end, process)
            _wait_for(f"{cluster.dashboard}/api/version", process, directory / "log")
        yield cluster


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(url, timeout=5).raise_for_status()
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started: nothing of it is to be kept, and an orderly end takes half a minute."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
