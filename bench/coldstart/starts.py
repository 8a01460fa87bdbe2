"""One start of a server: when it answers, and when its first token comes."""

from __future__ import annotations

import asyncio
import http.client
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from bench.children import ServerChild, free_port
from bench.client import Endpoint, attempt_chat
from bench.errors import BenchError
from bench.rounds import Measurement

_START_S = 600.0
_ANSWER_S = 600.0
_POLL_S = 0.005
_RETRY_S = 0.05
_PHASES_S = 10.0
_MAX_TOKENS = 2


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """How somebody is started and asked.

    Attributes:
        name: as results call it.
        command: with `{port}` where it is to listen.
        environ: of the process; `{directory}` in a value is a directory of that start's own.
        ready_path: that it answers with 200 as soon as it listens.
        model: to ask for.
        extra: further fields of the request.
        tells_phases: whether /startup has the timeline of the boot.
    """

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    ready_path: str
    model: str
    extra: dict[str, Any]
    tells_phases: bool = False


class Starts:
    """Starts a server in each round, and asks it for a token as soon as it answers.

    Args:
        server: who.
        prompt: what is asked.
        prepare: what is done before each start.
    """

    def __init__(self, server: Server, prompt: str, prepare: Callable[[], None]) -> None:
        self._server = server
        self._prompt = prompt
        self._prepare = prepare

    @property
    def name(self) -> str:
        """As results call it."""
        return self._server.name

    def measure(self, round_number: int) -> Measurement:
        """Seconds from exec until it answered, and until the first token came; its phases, where it tells them."""
        del round_number
        server, port = self._server, free_port()
        with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
            command = [part.replace("{port}", str(port)) for part in server.command]
            environ = {key: value.replace("{directory}", directory) for key, value in server.environ.items()}
            self._prepare()
            began_s = time.perf_counter()
            with ServerChild(
                server.name,
                command,
                environ,
                port=port,
                ready_path=server.ready_path,
                start_s=_START_S,
                poll_s=_POLL_S,
            ):
                health_s = time.perf_counter() - began_s
                token_s, num_refused = asyncio.run(self._first_token(port))
                metrics = {"health_s": health_s, "first_token_s": token_s - began_s, "refusals": float(num_refused)}
                details = {}
                if server.tells_phases:
                    phases = _phases(port)
                    metrics |= {f"{each['name']}_s": each["end_s"] - each["start_s"] for each in phases}
                    details["phases"] = phases
        return Measurement(metrics=metrics, details=details)

    async def _first_token(self, port: int) -> tuple[float, int]:
        """When it came, by `time.perf_counter`, and how often the server said before that it could not serve yet."""
        server = self._server
        endpoint = Endpoint(host="127.0.0.1", port=port, model=server.model, extra=server.extra)
        deadline_s = time.perf_counter() + _ANSWER_S
        num_refused = 0
        while True:
            attempt = await attempt_chat(endpoint, self._prompt, _MAX_TOKENS, _ANSWER_S)
            if attempt.sample is not None:
                return attempt.sample.token_times_s[0], num_refused
            if attempt.status != 503 or time.perf_counter() > deadline_s:
                raise BenchError(f"{server.name} answered with {attempt.status}, and no token")
            num_refused += 1
            await asyncio.sleep(_RETRY_S)


def _phases(port: int) -> Sequence[dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PHASES_S)
    try:
        connection.request("GET", "/startup")
        phases: Sequence[dict[str, Any]] = msgspec.json.decode(connection.getresponse().read())["phases"]
    finally:
        connection.close()
    return phases
