"""The OpenAPI 3.1 description, generated from the contract and its wire types, and the page that shows it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from handler import __version__
from handler.contract import ENDPOINTS, Answer, Endpoint, errors_of
from handler.errors import AuthenticationError, PilotlightError, UnavailableError
from handler.http_errors import ERROR_TABLE
from handler.schema.errors import ErrorBody

_START_SCRIPT = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true});'
DOCS_PAGE = f"""<!doctype html>
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
<script>{_START_SCRIPT}</script>
</body>
</html>
"""
_START_HASH = base64.b64encode(hashlib.sha256(_START_SCRIPT.encode()).digest()).decode()
_PAGE_POLICY = (
    "default-src 'none'",
    f"script-src 'self' 'sha256-{_START_HASH}'",
    "style-src 'self'",
    "img-src 'self' data:",  # Swagger UI's icons
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
DOCS_HEADERS = {
    "content-security-policy": "; ".join(_PAGE_POLICY),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # frame-ancestors for browsers that do not know it
}
"""The page loads and asks nothing that is not of this server, runs no other script, and stands in nobody's frame."""

_JSON = "application/json"
_REF = "#/components/schemas/{name}"
_HEADERS = {
    "x-request-id": (
        "The request's id in log and answer: the client's own if it sent a valid one.",
        {"type": "string"},
    ),
    "retry-after": (
        "Seconds after which all that waits now is likely to have begun.",
        {"type": "integer", "minimum": 1},
    ),
    "www-authenticate": ("How to send a key.", {"type": "string", "const": "Bearer"}),
}


class DocsFiles(StaticFiles):
    """What the page loads. Of the wheel `swagger-ui-py`, whose Python code is never imported."""

    def __init__(self) -> None:
        super().__init__(directory=_docs_directory())

    def file_response(self, *args: Any, **options: Any) -> Response:
        """A file, which no browser is to take for something else."""
        response = super().file_response(*args, **options)
        response.headers.update({"x-content-type-options": "nosniff"})
        return response


def _docs_directory() -> Path:
    spec = importlib.util.find_spec("swagger_ui")
    assert spec is not None, "a dependency of the project"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "static"


def describe_api(model_name: str, needs_key: Callable[[str], bool], *, with_metrics: bool) -> dict[str, Any]:
    """The OpenAPI document as JSON-ready objects. `model_name` is what requests must name; which paths need a key?"""
    endpoints = [endpoint for endpoint in ENDPOINTS if with_metrics or endpoint.path != "/metrics"]
    components: dict[str, Any] = {
        "schemas": _schemas(endpoints, model_name),
        "headers": {name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()},
    }
    if any(needs_key(endpoint.path) for endpoint in endpoints):
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, model_name, needs_key=needs_key(endpoint.path))
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pilotlight",
            "version": __version__,
            "description": "OpenAI-compatible completions. A field that is not listed here is refused by name.",
        },
        "paths": paths,
        "components": components,
    }


def _schemas(endpoints: Sequence[Endpoint], model_name: str) -> dict[str, Any]:
    requests = [kind for endpoint in endpoints for kind in endpoint.requests]
    answers = [kind for each in endpoints for answer in each.answers.values() for kind in answer.kinds]
    events = [kind for endpoint in endpoints for kind in endpoint.events]
    kinds = list(dict.fromkeys([*requests, *answers, *events, ErrorBody]))
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    if "MessageItem" in components:
        components["MessageItem"]["required"].remove("type")  # ResponsesFormat adds it where it was left out
    for kind in requests:
        model = components[kind.__name__]["properties"].get("model", {})
        for schema in model.get("anyOf", [model]):
            if schema.get("type") == "string":
                schema["enum"] = [model_name]
    return components


def _operation(endpoint: Endpoint, model_name: str, *, needs_key: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": endpoint.summary, "operationId": _operation_id(endpoint)}
    if endpoint.rules:
        operation["description"] = "\n".join(f"- {rule}" for rule in endpoint.rules)
    parameters = re.findall(r"{(\w+)}", endpoint.path)
    if parameters:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _path_schema(name, model_name)}
            for name in parameters
        ]
    if endpoint.requests:
        operation["requestBody"] = {"required": True, "content": {_JSON: _request(endpoint, model_name)}}
    responses = {str(status): _answer(answer) for status, answer in endpoint.answers.items()}
    if endpoint.events:
        responses["200"]["content"]["text/event-stream"] = _stream(endpoint)
    errors = errors_of(endpoint, needs_key=needs_key)
    for status in sorted({ERROR_TABLE[error].status for error in errors}):
        responses[str(status)] = _error([error for error in errors if ERROR_TABLE[error].status == status])
    operation["responses"] = responses
    if needs_key:
        operation["security"] = [{"bearer": []}]
    return operation


def _path_schema(name: str, model_name: str) -> dict[str, Any]:
    return {"type": "string", "enum": [model_name]} if name == "model" else {"type": "string"}


def _operation_id(endpoint: Endpoint) -> str:
    return "_".join([endpoint.method.lower(), *re.findall(r"\w+", endpoint.path)])


def _request(endpoint: Endpoint, model_name: str) -> dict[str, Any]:
    examples = {name: {"value": {"model": model_name} | example} for name, example in endpoint.examples.items()}
    return {"schema": _schema(endpoint.requests), "examples": examples}


def _answer(answer: Answer) -> dict[str, Any]:
    response: dict[str, Any] = {"description": answer.description, "headers": _headers("x-request-id")}
    if answer.media_type is not None:
        response["content"] = {answer.media_type: {"schema": {"type": "string"}}}
    elif answer.kinds:
        response["content"] = {_JSON: {"schema": _schema(answer.kinds)}}
    return response


def _stream(endpoint: Endpoint) -> dict[str, Any]:
    """The schema of each event, for OpenAPI 3.1 has no word of its own for it (3.2: `itemSchema`)."""
    chunk = {"contentMediaType": _JSON, "contentSchema": _schema((*endpoint.events, ErrorBody))}
    data: dict[str, Any] = {"type": "string", "anyOf": [chunk]}
    if endpoint.last_event is not None:
        data["anyOf"].insert(0, {"const": endpoint.last_event})
    schema = {
        "type": "object",
        "description": f"Each event of the stream. {endpoint.stream_end}",
        "properties": {"data": data},
        "required": ["data"],
    }
    return {"schema": schema}


def _error(errors: Sequence[type[PilotlightError]]) -> dict[str, Any]:
    headers = ["x-request-id"]
    if any(issubclass(error, UnavailableError) for error in errors):
        headers.append("retry-after")
    if AuthenticationError in errors:
        headers.append("www-authenticate")
    return {
        "description": " ".join(str(inspect.getdoc(error)).splitlines()[0] for error in errors),
        "headers": _headers(*headers),
        "content": {_JSON: {"schema": _schema((ErrorBody,))}},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _schema(kinds: tuple[Any, ...]) -> dict[str, Any]:
    if len(kinds) > 1:
        return {"anyOf": [_schema((kind,)) for kind in kinds]}
    (kind,) = kinds
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {"$ref": _REF.format(name=kind.__name__)}
    return msgspec.json.schema(kind)
