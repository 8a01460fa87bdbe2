"""The workloads as a FastAPI user writes them, by FastAPI's own documentation. `docs/baselines.md` names the pages.

All endpoints are `async`. Whole answers are pydantic models named as the response model, which pydantic's own core
turns into bytes: FastAPI deprecates `ORJSONResponse` in favour of that. A stream is a `StreamingResponse`, because the
body says whether there is one; `EventSourceResponse` is for endpoints that always stream, and costs two tasks more for
each. Key and record come by dependency and exception handlers: there is no middleware, through which every message
would have to pass.

A client that leaves cancels the sequence of a stream. Whole answers are generated to their end: FastAPI tells an
endpoint that awaits nothing of the client's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

import asyncpg
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.telemetry import TelemetryConfig
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader

from bench.baselines.answers import STREAM_HEADERS, STREAM_TYPE, whole_answer
from bench.baselines.async_chat import complete, running, stream
from bench.baselines.chat import CHAT_PATH, Chat
from bench.baselines.fortunes import PAGE, TEMPLATES, fortunes
from bench.baselines.greetings import SELECT, open_pool, random_id
from bench.baselines.refusals import refusal
from bench.baselines.schema import ChatCompletion, ChatRequest, Greeting, Hello, State
from handler.errors import PilotlightError
from handler.http_errors import error_body, error_headers, http_error
from handler.requestlog.sink import LogSink
from handler.schema.codec import encode_json
from handler.service import ServesModel
from handler.settings import Settings
from handler.trace import RequestTrace


def fastapi_app(settings: Settings, engine: ServesModel, sink: LogSink, database: str | None) -> FastAPI:
    """The application; its lifespan starts and ends engine, log and connections."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if database is not None:
                app.state.pool = await stack.enter_async_context(open_pool(database))
            await stack.enter_async_context(running(engine, sink))
            yield

    # Nobody collects traces here, and no one asks for the description, whose routes would be looked at first.
    off = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)
    app = FastAPI(lifespan=lifespan, openapi_url=None, telemetry=off)
    app.state.chat = chat = Chat(settings, engine, sink.submit)
    app.state.pool = None
    _add_chat(app, chat)
    _add_plain_workloads(app)
    _add_errors(app)
    return app


async def admit(request: Request) -> RequestTrace:
    """Begin the request's trace, and check its key.

    It reads both headers itself: FastAPI solves and validates each one that is declared, which was a fifth of what a
    request cost.
    """
    chat: Chat = request.app.state.chat
    trace: RequestTrace = chat.begin(request.headers.get("x-request-id"))
    request.state.trace = trace
    chat.admit(trace, request.headers.get("authorization"))
    return trace


Admitted = Annotated[RequestTrace, Depends(admit)]


def _add_chat(app: FastAPI, chat: Chat) -> None:
    @app.post(CHAT_PATH, response_model=ChatCompletion)
    async def completions(body: ChatRequest, trace: Admitted, response: Response) -> ChatCompletion | StreamingResponse:
        job = chat.prepare(trace, body)
        if body.stream:
            headers = {"x-request-id": trace.request_id, **STREAM_HEADERS}
            return StreamingResponse(stream(chat, job), media_type=STREAM_TYPE, headers=headers)
        choice = await complete(chat, job)
        chat.close(trace, 200)
        response.headers["x-request-id"] = trace.request_id
        return whole_answer(job.head, choice)

    @app.get("/ready")
    async def ready(response: Response) -> State:
        if not chat.is_ready:
            response.status_code = 503
        return State(status="ready" if chat.is_ready else "booting")


def _add_plain_workloads(app: FastAPI) -> None:
    templates = Jinja2Templates(env=Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, auto_reload=False))

    @app.get("/json")
    async def hello() -> Hello:
        return Hello(message="Hello, World!")

    @app.get("/database")
    async def greeting(request: Request) -> Greeting:
        pool: asyncpg.Pool | None = request.app.state.pool
        if pool is None:
            raise HTTPException(503, "No database was configured")
        row = await pool.fetchrow(SELECT, random_id())
        assert row is not None, "every id has its row"
        return Greeting(id=row["id"], message=row["message"])

    @app.get("/template", response_class=HTMLResponse)
    async def page(request: Request) -> HTMLResponse:
        return templates.TemplateResponse(request, PAGE, {"fortunes": fortunes()})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(PilotlightError)
    async def on_error(request: Request, error: PilotlightError) -> Response:
        return _answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return _answer(request, refusal(error.errors(), skipped=1))  # each location begins with "body"

    @app.exception_handler(HTTPException)
    async def on_http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": {"message": error.detail}}, error.status_code)


def _answer(request: Request, error: PilotlightError) -> Response:
    chat: Chat = request.app.state.chat
    trace: RequestTrace | None = getattr(request.state, "trace", None)
    if trace is None:  # the body was no JSON, which is found before any dependency is asked
        trace = chat.begin(request.headers.get("x-request-id"))
    chat.fail(trace, error)
    headers = {"x-request-id": trace.request_id, **error_headers(error)}
    return Response(encode_json(error_body(error)), http_error(error).status, headers, "application/json")
