"""The function itself, with the three plain workloads beside it in its own style: raw ASGI, orjson, asyncpg, Jinja2.

They are no part of the function, so they stand in front of it, and not among its routes: a look into a table with each
request, and one more coroutine to pass through. `docs/baselines.md` says what that costs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.baselines.fortunes import fortunes
from bench.baselines.greetings import SELECT, open_pool, random_id
from bench.baselines.page import page_renderer

_JSON = b"application/json"
_HTML = b"text/html; charset=utf-8"
_NO_DATABASE = b'{"error":{"message":"No database was configured"}}'


class PlainWorkloads:
    """Answers `/json`, `/database` and `/template`, and passes everything else on.

    Args:
        app: the function.
        database: URL, None where there is none.
    """

    def __init__(self, app: ASGIApp, database: str | None) -> None:
        self._app = app
        self._database = database
        self._pool: asyncpg.Pool | None = None
        self._render = page_renderer()
        self._endpoints: dict[str, Callable[[Send], Awaitable[None]]] = {
            "/json": self._json,
            "/database": self._row,
            "/template": self._page,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on. The connections live as long as the application."""
        if scope["type"] == "http":
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None:
                await endpoint(send)
                return
        elif scope["type"] == "lifespan" and self._database is not None:
            async with open_pool(self._database) as self._pool:
                await self._app(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _json(self, send: Send) -> None:
        await _answer(send, _JSON, orjson.dumps({"message": "Hello, World!"}))

    async def _row(self, send: Send) -> None:
        if self._pool is None:
            await _answer(send, _JSON, _NO_DATABASE, status=503)
            return
        row = await self._pool.fetchrow(SELECT, random_id())
        assert row is not None, "every id has its row"
        await _answer(send, _JSON, orjson.dumps({"id": row["id"], "message": row["message"]}))

    async def _page(self, send: Send) -> None:
        await _answer(send, _HTML, self._render(fortunes()))


async def _answer(send: Send, kind: bytes, body: bytes, status: int = 200) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
