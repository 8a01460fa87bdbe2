"""A remote OpenAI-compatible server as an engine: whether it can be reached, and what it says of its models.

Nothing is generated here, and no sequence submitted: requests are forwarded as they came. Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from functools import partial
from pathlib import Path

import httpx
import msgspec

from handler.boot import BootTimeline
from handler.engine.events import OnEvent
from handler.engine.listeners import Handle, OnBoot, Post
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import FORMAT_VERSION, Manifest, Snapshot
from handler.engine.status import DeviceStatus, EngineState, EngineStats
from handler.errors import EngineError, UpstreamError
from handler.occupancy import Occupancy
from handler.settings import without_password

logger = logging.getLogger(__name__)

_CONNECT_S = 5.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_LOOK_INTERVAL_S = 5.0
_STOP_S = 1.0


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class RemoteEngine:
    """What stands behind the function in place of an engine.

    Args:
        url: of the server, up to and including `/v1`.
        key: that it asks for, None where it asks for none.
        model_name: that is served; the server must have it.
        timeline: receives the phase in which the server is waited for.

    Attributes:
        client: for requests to the server, from `start` on.
        url: as given, without a slash at its end.
        state: ready while the server answers.
        occupancy: the requests that are there, told by whoever admits them.
    """

    client: httpx.AsyncClient
    model = None
    devices: list[DeviceStatus] = []  # noqa: RUF012  (never any)

    def __init__(self, url: str, key: str | None, model_name: str, timeline: BootTimeline) -> None:
        self.url = url.rstrip("/")
        self.state = EngineState.BOOTING
        self.occupancy: Occupancy | None = None
        self._headers = _headers(key)
        self._timeline = timeline
        self._task: asyncio.Task[None] | None = None
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        source = without_password(self.url)
        manifest = Manifest(format_version=FORMAT_VERSION, source=source, name=model_name, files=(), created_at=now)
        self._snapshot = Snapshot(Path(), model_name, manifest)

    @property
    def snapshot(self) -> Snapshot:
        """The model's name; there are no files of it here."""
        return self._snapshot

    @property
    def stats(self) -> EngineStats:
        """Requests whose first token has come run; the others wait."""
        if self.occupancy is None:
            return EngineStats()
        waiting = self.occupancy.num_waiting
        return EngineStats(num_running=self.occupancy.num_admitted - waiting, num_waiting=waiting)

    @property
    def is_alive(self) -> bool:
        """Whether this process does its work: a server that is away comes back without another process here."""
        return True

    def start(self, post: Post, on_boot: OnBoot) -> None:
        """Look for the server until it is there; `on_boot` is called when it has the model, or has others only."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        timeout = httpx.Timeout(None, connect=_CONNECT_S)  # an answer takes what REQUEST_TIMEOUT allows
        self.client = httpx.AsyncClient(headers=self._headers, limits=limits, timeout=timeout)
        self._task = asyncio.get_running_loop().create_task(self._run(post, on_boot), name="upstream")

    def stop(self, timeout_s: float) -> bool:
        """Look no more. Called from a thread."""
        del timeout_s
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        return True

    def watch(self, elapsed_s: float, timeout_s: float) -> None:
        """Nothing here can hang."""

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        """Refuse: requests are forwarded.

        Raises:
            EngineError: always.
        """
        del prompt_tokens, params, on_event
        raise EngineError("Requests are forwarded, and nothing is generated here")

    async def _run(self, post: Post, on_boot: OnBoot) -> None:
        try:
            with self._timeline.phase("upstream"):
                names = await self._wait()
            name, source = self._snapshot.name, self._snapshot.manifest.source
            if name not in names:
                self.state = EngineState.FAILED
                known = ", ".join(names) or "none"
                post(partial(on_boot, EngineError(f"the server at {source} has no model {name!r}; it has {known}")))
                return
            self.state = EngineState.READY
            self._timeline.mark_ready()
            post(partial(on_boot, None))
            while True:
                await asyncio.sleep(_LOOK_INTERVAL_S)
                if await self._models() is None:
                    self.state = EngineState.BOOTING
                    logger.warning("the server at %s does not answer", source)
                    await self._wait()
                    logger.info("the server at %s answers again", source)
                    self.state = EngineState.READY
        finally:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self.client.aclose(), _STOP_S)

    async def _wait(self) -> list[str]:
        """The names of the server's models, as soon as it tells them."""
        pause_s = _FIRST_PAUSE_S
        while (names := await self._models()) is None:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return names

    async def _models(self) -> list[str] | None:
        """None while it does not answer, or not with that."""
        try:
            return _names(await self.client.get(f"{self.url}/models", timeout=_CONNECT_S))
        except (httpx.HTTPError, msgspec.MsgspecError):
            return None


def models_at(url: str, key: str | None) -> list[str]:
    """The names of a server's models, asked for once. Blocks.

    Raises:
        UpstreamError: it does not answer, or not with that.
    """
    headers = _headers(key)
    try:
        return _names(httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=_CONNECT_S))
    except (httpx.HTTPError, msgspec.MsgspecError) as error:
        raise UpstreamError(f"{without_password(url)}: {error or type(error).__name__}") from error


def _names(response: httpx.Response) -> list[str]:
    response.raise_for_status()
    return [model.id for model in msgspec.json.decode(response.content, type=_Models).data]


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}
