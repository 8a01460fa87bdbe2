"""The application in this process, on a tiny model: the test is the ASGI server and decides when `send` waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import orjson
from starlette.types import Message

from handler.app import create_app
from handler.boot import BootTimeline
from handler.cli.serve import engine_options
from handler.engine.engine import Engine
from handler.engine.snapshot import Snapshot
from handler.outbox import PUSHER
from handler.requestlog.record import Record
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from handler.service import Service
from handler.settings import Settings
from tests.requestlog.records import records_of
from tests.server import DEADLINE_S, until


class Application:
    """Boots when entered. `environ` are settings; `engine_type` may be a broken engine, or several."""

    def __init__(
        self,
        snapshot: Snapshot,
        directory: Path,
        environ: Mapping[str, str] | None = None,
        *,
        engine_type: Any = Engine,
    ) -> None:
        settings = Settings.from_env(
            {
                "PILOTLIGHT_HOME": str(directory),
                "MODEL_NAME": str(snapshot.directory),
                "DATABASE_URL": "none",
                "MODEL_DEVICE": "cpu",
            }
            | dict(environ or {})
        )
        timeline = BootTimeline()
        self.spool = Spool(settings.spool_directory)
        self.engine: Engine = engine_type(snapshot, engine_options(settings), timeline)
        self.app = create_app(settings, self.engine, LogSink(self.spool, None), timeline)
        self.service: Service = self.app.state.service
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Application:
        await self._stack.enter_async_context(self.app.router.lifespan_context(self.app))
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://test")
        )
        async with asyncio.timeout(DEADLINE_S):
            await self.service.booted()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def records(self) -> list[Record]:
        """Records that came since the last call."""
        batch = self.spool.read(1000, 1 << 20)
        if batch is None:
            return []
        self.spool.acknowledge(batch)
        return records_of(batch)

    async def idle(self) -> None:
        """Return when the engine holds no sequence and no block."""

        async def look() -> bool | None:
            stats = self.engine.stats
            return None if stats.num_running or stats.num_waiting or stats.kv_blocks_used else True

        await until(look, "the engine is idle")


class Exchange:
    """One request and its response, message by message. The server pushes, and sends whole, if it is told to."""

    def __init__(
        self,
        application: Application,
        path: str,
        body: object,
        *,
        extensions: Mapping[str, Any] | None = None,
        pushes: bool = False,
        sends_whole: bool = False,
        **headers: str,
    ) -> None:
        self.num_pushed = 0
        self.num_whole = 0
        self._sends_whole = sends_whole
        self.messages: list[Message] = []
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.is_blocked = asyncio.Event()
        self.before_last: Callable[[], None] = lambda: None
        self._body: bytes | None = orjson.dumps(body)
        self._block_at: int | None = None
        self._left = asyncio.Event()
        self._changed = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()],
            "extensions": {**(extensions or {}), **({PUSHER: self} if pushes else {})},
        }
        self.task = asyncio.create_task(application.app(scope, self._receive, self._send))

    @property
    def status(self) -> int:
        """Of the response."""
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        """Of the response."""
        return {key.decode(): value.decode() for key, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        """What came of it so far."""
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def is_complete(self) -> bool:
        """Whether the last message has come."""
        return bool(self.messages) and _is_last(self.messages[-1])

    def leave(self) -> None:
        """The client disconnects."""
        self._left.set()

    def block_at(self, number: int) -> None:
        """From the message of that number on, `send` waits until `may_send` is set."""
        self._block_at = number
        self.may_send.clear()

    def is_ready(self) -> bool:
        """Whether parts of a stream may be pushed, as the server says it."""
        return self.may_send.is_set()

    def push(self, body: bytes) -> None:
        """Take a part of a stream that nobody waits for, as the server does."""
        self.num_pushed += 1
        self.messages.append({"type": "http.response.body", "body": body, "more_body": True})
        self._changed.set()

    def send_whole(self, fields: bytes, body: bytes, before: Callable[[], None]) -> bool:
        """Take a whole answer at once, as the server does."""
        if not self._sends_whole:
            return False
        self.num_whole += 1
        before()
        self.before_last()
        lines = [*fields.split(b"\r\n")[:-1], b"content-length: %d" % len(body)]
        headers = [tuple(line.split(b": ", 1)) for line in lines]
        self.messages += [
            {"type": "http.response.start", "status": 200, "headers": headers},
            {"type": "http.response.body", "body": body},
        ]
        self._changed.set()
        return True

    async def sent(self, number: int) -> None:
        """Return when that many messages have been sent."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.messages) < number:
                self._changed.clear()
                await self._changed.wait()

    async def done(self) -> None:
        """Return when the application has, and raise what it raised."""
        async with asyncio.timeout(DEADLINE_S):
            await self.task

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._block_at is not None and len(self.messages) >= self._block_at:
            self.is_blocked.set()
            await self.may_send.wait()
        if _is_last(message):
            self.before_last()
        self.messages.append(message)
        self._changed.set()


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)
