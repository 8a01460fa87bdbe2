"""The OpenAPI 3.1 description, generated from the wire types, and the page that shows it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec

from handler import __version__
from handler.http_errors import ERROR_TABLE
from handler.schema.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from handler.schema.errors import ErrorBody
from handler.schema.models import Model, ModelList
from handler.schema.response import Response
from handler.schema.responses import ResponseRequest
from handler.schema.text import Completion, CompletionRequest

_TYPES = (
    ChatCompletionRequest,
    ChatCompletion,
    ChatCompletionChunk,
    CompletionRequest,
    Completion,
    ResponseRequest,
    Response,
    ModelList,
    ErrorBody,
)

DOCS_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pilotlight API</title>
<link rel="stylesheet" href="/docs/static/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/static/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true});</script>
</body>
</html>
"""


def docs_directory() -> Path:
    """Where the wheel `swagger-ui-py` keeps Swagger UI's files; its Python code is never imported."""
    spec = importlib.util.find_spec("swagger_ui")
    assert spec is not None, "a dependency of the project"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "static"


def describe_api(*, with_auth: bool, with_metrics: bool) -> dict[str, Any]:
    """The OpenAPI document as JSON-ready objects."""
    _, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Pilotlight",
            "version": __version__,
            "description": "OpenAI-compatible completions. A field that is not listed here is refused by name.",
        },
        "paths": {
            "/v1/chat/completions": {"post": _completion("Complete a conversation", "Chat", ChatCompletionChunk)},
            "/v1/completions": {"post": _completion("Complete a text", "", Completion)},
            "/v1/responses": {"post": _response()},
            "/v1/models": {"get": _get("List the served model", {"200": _content(_ref(ModelList)), **_errors(401)})},
            "/v1/models/{model}": {"get": _model()},
            "/health": {"get": _get("Whether the process is alive", _statuses("alive", "dead or hung"))},
            "/ready": {"get": _get("Whether a token could be served now", _statuses("ready", "booting or stopping"))},
            "/startup": {"get": _get("The timeline of the boot", _statuses("booted", "booting"))},
        },
        "components": {"schemas": components},
    }
    if with_metrics:
        exposition = {"200": {"description": "text exposition format"}}
        document["paths"]["/metrics"] = {"get": _get("Prometheus metrics", exposition)}
    if with_auth:
        document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            if path.startswith("/v1/"):
                for operation in methods.values():
                    operation["security"] = [{"bearer": []}]
    return document


def _completion(summary: str, kind: str, chunk: type[msgspec.Struct]) -> dict[str, Any]:
    stream = f"Events `data: {chunk.__name__}`, the last one `data: [DONE]`"
    schemas = "#/components/schemas"
    return _generation(summary, f"{schemas}/{kind}CompletionRequest", f"{schemas}/{kind}Completion", stream)


def _response() -> dict[str, Any]:
    stream = (
        "Events as OpenAI's Responses API has them, from `response.created` to `response.completed`, "
        "`response.incomplete` or `response.failed`, each with its `sequence_number`"
    )
    return _generation("Answer a conversation in items", _ref(ResponseRequest), _ref(Response), stream)


def _generation(summary: str, request_ref: str, answer_ref: str, stream: str) -> dict[str, Any]:
    answer = _content(answer_ref)
    answer["content"]["text/event-stream"] = {"schema": {"type": "string", "description": stream}}
    request = _content(request_ref) | {"required": True}
    del request["description"]
    statuses = sorted({entry.status for entry in ERROR_TABLE.values()})
    return {"summary": summary, "requestBody": request, "responses": {"200": answer, **_errors(*statuses)}}


def _model() -> dict[str, Any]:
    parameter = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    operation = _get("Describe the served model", {"200": _content(_ref(Model)), **_errors(401, 404)})
    return operation | {"parameters": [parameter]}


def _get(summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": responses}


def _statuses(good: str, bad: str) -> dict[str, Any]:
    body = {"application/json": {"schema": {"type": "object"}}}
    return {"200": {"description": good, "content": body}, "503": {"description": bad, "content": body}}


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(status): _content(_ref(ErrorBody)) | {"description": "OpenAI's error body"} for status in statuses}


def _content(ref: str) -> dict[str, Any]:
    return {"description": "success", "content": {"application/json": {"schema": {"$ref": ref}}}}


def _ref(kind: type[msgspec.Struct]) -> str:
    return f"#/components/schemas/{kind.__name__}"
