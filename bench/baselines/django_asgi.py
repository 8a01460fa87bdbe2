"""The workloads as a Django user writes them for ASGI: `async` views, the asynchronous ORM. Event loop only.

What Django itself runs in threads stays there: queries of the ORM, and the end of each response. A client that leaves
cancels the view, so the sequence of a whole answer is cancelled as well as that of a stream.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import path
from django.views.decorators.http import require_GET, require_POST
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.baselines.answers import whole_answer
from bench.baselines.async_chat import complete, stream
from bench.baselines.chat import CHAT_PATH, Chat
from bench.baselines.django_answers import (
    error_response,
    json_response,
    no_database,
    read_body,
    sized,
    stream_response,
    whole_response,
)
from bench.baselines.django_setup import set_up
from bench.baselines.fortunes import PAGE, fortunes
from bench.baselines.greetings import random_id
from handler.errors import PilotlightError


def django_asgi_app(chat: Chat, database: str | None, max_body_bytes: int) -> ASGIApp:
    """Django on ASGI. It knows no lifespan."""
    views = _Views(chat, has_database=database is not None)
    urls = [
        path(CHAT_PATH[1:], require_POST(views.completions)),
        path("json", require_GET(views.hello)),
        path("database", require_GET(views.greeting)),
        path("template", require_GET(views.page)),
        path("ready", require_GET(views.ready)),
    ]
    set_up(urls, database, max_body_bytes, with_pool=True)
    application: ASGIApp = get_asgi_application()
    return application


def with_lifespan(app: ASGIApp, running: AbstractAsyncContextManager[None]) -> ASGIApp:
    """The application within `running`: Django leaves what must be started and ended to whoever runs it."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        await receive()
        async with running:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return wrapped


class _Views:
    def __init__(self, chat: Chat, *, has_database: bool) -> None:
        self._chat = chat
        self._has_database = has_database

    async def hello(self, _: HttpRequest) -> HttpResponse:
        return json_response({"message": "Hello, World!"})

    async def greeting(self, _: HttpRequest) -> HttpResponse:
        from bench.baselines.django_models import Greeting  # noqa: PLC0415  (needs Django's settings)

        if not self._has_database:
            return no_database()
        row = await Greeting.objects.aget(pk=random_id())
        return json_response({"id": row.id, "message": row.message})

    async def page(self, _: HttpRequest) -> HttpResponse:
        return sized(render_to_string(PAGE, {"fortunes": fortunes()}), "text/html; charset=utf-8")

    async def ready(self, _: HttpRequest) -> HttpResponse:
        is_ready = self._chat.is_ready
        return json_response({"status": "ready" if is_ready else "booting"}, 200 if is_ready else 503)

    async def completions(self, request: HttpRequest) -> HttpResponse:
        chat, trace = self._chat, self._chat.begin(request.META.get("HTTP_X_REQUEST_ID"))
        try:
            chat.admit(trace, request.META.get("HTTP_AUTHORIZATION"))
            body = read_body(request)
            job = chat.prepare(trace, body)
            if body.stream:
                return stream_response(trace, stream(chat, job))
            choice = await complete(chat, job)
        except PilotlightError as error:
            chat.fail(trace, error)
            return error_response(trace, error)
        chat.close(trace, 200)
        return whole_response(trace, whole_answer(job.head, choice))
