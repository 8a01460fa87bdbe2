"""The workloads as a Flask user writes them, by Flask's own documentation. `docs/baselines.md` names the pages.

Views are plain functions, for Flask runs an `async` one in a loop that it makes for it. JSON goes through a provider
with orjson, as Flask documents how to set one; bodies are validated by pydantic from their bytes, which is what
pydantic recommends. Engine and log run beside the threads of the one process that gunicorn starts.
"""

from __future__ import annotations

from typing import Any

import orjson
from flask import Flask, Response, render_template, request
from flask.json.provider import JSONProvider
from flask.typing import ResponseReturnValue
from psycopg_pool import ConnectionPool
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from bench.baselines.answers import STREAM_HEADERS, STREAM_TYPE, whole_answer
from bench.baselines.chat import CHAT_PATH, Chat
from bench.baselines.fortunes import PAGE, fortunes
from bench.baselines.greetings import random_id
from bench.baselines.refusals import refusal
from bench.baselines.schema import ChatRequest
from bench.baselines.threaded_chat import complete, stream
from handler.errors import PilotlightError
from handler.http_errors import error_body, error_headers, http_error
from handler.schema.codec import encode_json
from handler.trace import RequestTrace

_SELECT = "SELECT id, message FROM greetings WHERE id = %s"


class OrjsonProvider(JSONProvider):
    """JSON by orjson for everything that a view returns."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """As text."""
        del kwargs
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """From text or bytes."""
        del kwargs
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """What a dictionary that a view returns is sent as."""
        return Response(orjson.dumps(self._prepare_response_obj(args, kwargs)), mimetype="application/json")


def flask_app(chat: Chat, pool: ConnectionPool | None, max_body_bytes: int) -> Flask:
    """The application."""
    app = Flask("bench.baselines")
    app.json = OrjsonProvider(app)
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    _add_plain_workloads(app, pool)
    _add_chat(app, chat)
    return app


def _add_plain_workloads(app: Flask, pool: ConnectionPool | None) -> None:
    @app.get("/json")
    def hello() -> ResponseReturnValue:
        return {"message": "Hello, World!"}

    @app.get("/database")
    def greeting() -> ResponseReturnValue:
        if pool is None:
            return {"error": {"message": "No database was configured"}}, 503
        with pool.connection() as connection:
            row = connection.execute(_SELECT, (random_id(),)).fetchone()
        assert row is not None, "every id has its row"
        return {"id": row[0], "message": row[1]}

    @app.get("/template")
    def page() -> ResponseReturnValue:
        return render_template(PAGE, fortunes=fortunes())


def _add_chat(app: Flask, chat: Chat) -> None:
    @app.get("/ready")
    def ready() -> ResponseReturnValue:
        return {"status": "ready" if chat.is_ready else "booting"}, 200 if chat.is_ready else 503

    @app.post(CHAT_PATH)
    def completions() -> ResponseReturnValue:
        trace = chat.begin(request.headers.get("x-request-id"))
        try:
            return _answer(chat, trace)
        except PilotlightError as error:
            chat.fail(trace, error)
            headers = {"x-request-id": trace.request_id, **error_headers(error)}
            return Response(encode_json(error_body(error)), http_error(error).status, headers, "application/json")

    @app.errorhandler(HTTPException)
    def on_http(error: HTTPException) -> ResponseReturnValue:
        return {"error": {"message": error.description}}, error.code or 500


def _answer(chat: Chat, trace: RequestTrace) -> Response:
    chat.admit(trace, request.headers.get("authorization"))
    try:
        body = ChatRequest.model_validate_json(request.get_data(cache=False))
    except ValidationError as error:
        raise refusal(error.errors(include_url=False, include_input=False)) from error
    job = chat.prepare(trace, body)
    headers = {"x-request-id": trace.request_id}
    if body.stream:
        return Response(stream(chat, job), headers=headers | STREAM_HEADERS, content_type=STREAM_TYPE)
    choice = complete(chat, job)
    chat.close(trace, 200)
    return Response(whole_answer(job.head, choice).model_dump_json(), headers=headers, mimetype="application/json")
