"""Constant bytes on each path: the floor under everything that runs on uvicorn. Reads no body, checks nothing.

It has no streams: a floor under events that nobody makes would be a floor under nothing. A request for one gets the
whole answer.
"""

from __future__ import annotations

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.baselines.answers import Head, whole_answer
from bench.baselines.chat import CHAT_PATH
from bench.baselines.fortunes import fortunes
from bench.baselines.page import render_page
from handler.choice import Choice
from handler.engine.events import FinishReason, TokenEvent


def bare_app() -> ASGIApp:
    """As many bytes on each path as the others send; they are made once."""
    choice = Choice(0)
    choice.add(TokenEvent(text=" one", token_ids=(0,), finish_reason=FinishReason.LENGTH))
    head = Head(request_id="0" * 32, created=1_700_000_000, model="stub", fingerprint="fp_0123456789", prompt_tokens=13)
    bodies = {
        "/ready": (b"application/json", b'{"status":"ready"}'),
        "/json": (b"application/json", b'{"message":"Hello, World!"}'),
        "/database": (b"application/json", orjson.dumps({"id": 1234, "message": "Hello, number 1234!"})),
        "/template": (b"text/html; charset=utf-8", render_page(fortunes())),
        CHAT_PATH: (b"application/json", whole_answer(head, choice).model_dump_json().encode()),
    }
    answers = {
        path: ([(b"content-type", kind), (b"content-length", b"%d" % len(body))], body)
        for path, (kind, body) in bodies.items()
    }

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            return
        headers, body = answers[scope["path"]]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return bare
