from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import pytest
from starlette.routing import BaseRoute, Mount, Route

from handler import openapi
from handler.auth import Authenticator
from handler.contract import ENDPOINTS
from handler.engine.snapshot import Snapshot
from handler.errors import AuthenticationError, StoppingError
from handler.http_errors import ERROR_TABLE
from handler.keys import digest
from handler.schema.chat import ChatCompletionRequest
from tests.asgi import Application

# What OpenAPI 3.1 allows where this description uses it; a key that the standard does not know is refused.


class Info(msgspec.Struct, forbid_unknown_fields=True):
    title: str
    version: str
    description: str


class Example(msgspec.Struct, forbid_unknown_fields=True):
    value: dict[str, Any]


class MediaType(msgspec.Struct, forbid_unknown_fields=True):
    schema: dict[str, Any]
    examples: dict[str, Example] = {}


class RequestBody(msgspec.Struct, forbid_unknown_fields=True):
    content: dict[str, MediaType]
    required: bool = False


class Reference(msgspec.Struct, forbid_unknown_fields=True, rename={"ref": "$ref"}):
    ref: str


class Header(msgspec.Struct, forbid_unknown_fields=True):
    description: str
    schema: dict[str, Any]


class Response(msgspec.Struct, forbid_unknown_fields=True):
    description: str
    headers: dict[str, Reference]
    content: dict[str, MediaType] = {}


class Parameter(msgspec.Struct, forbid_unknown_fields=True, rename={"place": "in"}):
    name: str
    place: str
    required: bool
    schema: dict[str, Any]


class Operation(msgspec.Struct, forbid_unknown_fields=True):
    summary: str
    operationId: str  # noqa: N815  (the standard's spelling)
    responses: dict[str, Response]
    description: str = ""
    parameters: list[Parameter] = []
    requestBody: RequestBody | None = None  # noqa: N815  (the standard's spelling)
    security: list[dict[str, list[str]]] = []


class PathItem(msgspec.Struct, forbid_unknown_fields=True):
    get: Operation | None = None
    post: Operation | None = None
    delete: Operation | None = None


class Components(msgspec.Struct, forbid_unknown_fields=True):
    schemas: dict[str, dict[str, Any]]
    headers: dict[str, Header]
    securitySchemes: dict[str, dict[str, str]] = {}  # noqa: N815  (the standard's spelling)


class Document(msgspec.Struct, forbid_unknown_fields=True):
    openapi: str
    info: Info
    paths: dict[str, PathItem]
    components: Components


# JSON Schema 2020-12, as far as msgspec uses it.
KEYWORDS = {
    "$ref", "type", "properties", "required", "additionalProperties", "title", "description", "default", "enum",
    "anyOf", "items", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
    "pattern", "minItems", "maxItems", "minProperties", "maxProperties", "propertyNames", "discriminator",
    "contentMediaType", "contentSchema",
}  # fmt: skip
NO_KEYS = Authenticator({}).needs_key
TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}


def schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for key in ("items", "additionalProperties", "propertyNames", "contentSchema"):
        if isinstance(schema.get(key), dict):
            yield from schemas(schema[key])
    for child in [*schema.get("anyOf", []), *schema.get("properties", {}).values()]:
        yield from schemas(child)


@pytest.fixture(params=[{"alice": digest("sk-one")}, {}], ids=["keys", "no keys"])
def raw(request: pytest.FixtureRequest) -> dict[str, Any]:
    return openapi.describe_api("llama", Authenticator(request.param, ["/health"]).needs_key, with_metrics=True)


def operations(document: Document) -> list[Operation]:
    return [each for item in document.paths.values() for each in (item.get, item.post, item.delete) if each is not None]


def test_the_document_is_openapi_3_1(raw: dict[str, Any]) -> None:
    document = msgspec.convert(raw, Document)
    assert re.fullmatch(r"3\.1\.\d+", document.openapi)
    assert all(path.startswith("/") for path in document.paths)
    ids = [operation.operationId for operation in operations(document)]
    assert len(ids) == len(set(ids))
    for operation in operations(document):
        assert operation.responses
        for status, response in operation.responses.items():
            assert re.fullmatch(r"[2-5]\d\d", status)
            assert response.description
            for header in response.headers.values():
                assert header.ref.removeprefix("#/components/headers/") in document.components.headers


def test_every_schema_is_json_schema_and_every_reference_leads_somewhere(raw: dict[str, Any]) -> None:
    document = msgspec.convert(raw, Document)
    known = {f"#/components/schemas/{name}" for name in document.components.schemas}
    used = set()
    roots = list(document.components.schemas.values())
    for operation in operations(document):
        bodies = [operation.requestBody.content] if operation.requestBody else []
        bodies += [response.content for response in operation.responses.values()]
        roots += [media.schema for body in bodies for media in body.values()]
    for schema in (inner for root in roots for inner in schemas(root)):
        assert set(schema) <= KEYWORDS, schema
        if "type" in schema:
            assert schema["type"] in TYPES
        if "$ref" in schema:
            assert schema["$ref"] in known
            used.add(schema["$ref"])
    assert known == used


def test_every_wire_type_has_all_its_fields(raw: dict[str, Any]) -> None:
    kinds = {kind for endpoint in ENDPOINTS for kind in (*endpoint.requests, *endpoint.events)}
    for kind in kinds:
        schema = raw["components"]["schemas"][kind.__name__]
        assert set(schema["properties"]) == {*kind.__struct_encode_fields__, *tag(kind)}, kind
    for kind in {kind for endpoint in ENDPOINTS for kind in endpoint.requests}:
        assert raw["components"]["schemas"][kind.__name__]["additionalProperties"] is False


def tag(kind: type[msgspec.Struct]) -> list[str]:
    return [] if kind.__struct_config__.tag_field is None else [kind.__struct_config__.tag_field]


def test_limits_are_the_decoders(raw: dict[str, Any]) -> None:
    properties = raw["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert {"type": "number", "description": "0 takes the likeliest token.", "minimum": 0, "maximum": 2} in properties[
        "temperature"
    ]["anyOf"]
    assert properties["messages"]["minItems"] == 1
    assert properties["model"]["enum"] == ["llama"]


def test_every_error_that_an_endpoint_raises_is_described(raw: dict[str, Any]) -> None:
    with_auth = "securitySchemes" in raw["components"]
    for endpoint in ENDPOINTS:
        operation = raw["paths"][endpoint.path][endpoint.method.lower()]
        responses = operation["responses"]
        needs_key = with_auth and endpoint.path != "/health"
        errors = {*endpoint.errors, *([AuthenticationError] if needs_key else [])}
        described = {str(ERROR_TABLE[error].status) for error in errors}
        assert set(responses) == {*map(str, endpoint.answers), *described}
        for status in described:
            schema = responses[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorBody"}
        assert ("retry-after" in responses.get("503", {}).get("headers", {})) == (StoppingError in errors)
        assert ("text/event-stream" in responses.get("200", {}).get("content", {})) == bool(endpoint.events)
        assert operation.get("security") == ([{"bearer": []}] if needs_key else None)


def test_a_new_field_of_a_request_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    extended = msgspec.defstruct(
        "ChatCompletionRequest",
        [("new_field", int | None, None)],
        bases=(ChatCompletionRequest,),
        kw_only=True,
        frozen=True,
    )
    chat, *_ = ENDPOINTS
    monkeypatch.setattr(openapi, "ENDPOINTS", (msgspec.structs.replace(chat, requests=(extended,)),))
    document = openapi.describe_api("llama", NO_KEYS, with_metrics=True)
    assert "new_field" in document["components"]["schemas"]["ChatCompletionRequest"]["properties"]


async def test_what_is_described_is_what_is_served(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path) as application:
        document = (await application.client.get("/openapi.json")).json()
        assert document == openapi.describe_api("llama", NO_KEYS, with_metrics=True)
        described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
        assert described == set(served(application.app.routes))


def served(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        if isinstance(route, Mount):
            yield from ((method, route.path + path) for method, path in served(route.routes))
        elif isinstance(route, Route):
            path = route.path.replace(":path}", "}")
            yield from ((method, path) for method in route.methods or () if method != "HEAD")


async def test_every_example_works_and_every_answer_obeys_its_schema(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path) as application:
        document = (await application.client.get("/openapi.json")).json()
        sent = 0
        for path, item in document["paths"].items():
            for method, operation in item.items():
                content = operation.get("requestBody", {"content": {}})["content"].get("application/json", {})
                for body in [example["value"] for example in content.get("examples", {}).values()] or [None]:
                    response = await application.client.request(
                        method, path.format(model="llama", id="resp_1"), json=body
                    )
                    check(document, operation["responses"], response)
                    if body is not None:
                        assert response.status_code == 200, (path, response.text)
                        sent += 1
        assert sent == sum(len(endpoint.examples) for endpoint in ENDPOINTS) > 5


def check(document: dict[str, Any], responses: dict[str, Any], response: httpx.Response) -> None:
    described = responses[str(response.status_code)]
    assert set(response.headers) >= set(described["headers"]) - {"retry-after"}
    kind = response.headers.get("content-type", "").partition(";")[0]
    assert kind in (described.get("content") or {"": None})
    if kind == "text/event-stream":
        lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
        events = [{"data": line.removeprefix("data: ")} for line in lines]
        assert (events[-1] == {"data": "[DONE]"}) == ("event: " not in response.text)
        for event in events:
            validate(document, described["content"][kind]["schema"], event)
            if event["data"] != "[DONE]":
                inner = described["content"][kind]["schema"]["properties"]["data"]["anyOf"][-1]["contentSchema"]
                validate(document, inner, json.loads(event["data"]))
    elif kind == "application/json":
        validate(document, described["content"][kind]["schema"], response.json())


def validate(document: dict[str, Any], schema: dict[str, Any], value: object) -> None:
    jsonschema_rs.validate(schema | {"components": document["components"]}, value)


async def test_metrics_that_are_switched_off_are_neither_described_nor_served(
    tiny_served: Snapshot, tmp_path: Path
) -> None:
    async with Application(tiny_served, tmp_path, {"ENABLE_METRICS": "0"}) as application:
        document = (await application.client.get("/openapi.json")).json()
        assert "/metrics" not in document["paths"]
        assert (await application.client.get("/metrics")).status_code == 404


async def test_the_page_needs_nothing_from_outside(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path) as application:
        page = await application.client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "//" not in page.text.replace("<!--", "")
        linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(linked) == 2
        for path, kind in zip(linked, ("text/css", "text/javascript"), strict=True):
            response = await application.client.get(path)
            assert response.status_code == 200
            assert response.headers["content-type"].startswith(kind)
            assert len(response.content) > 10_000
        url = re.search(r'url: "([^"]+)"', page.text)
        assert url is not None
        assert (await application.client.get(url[1])).json()["openapi"].startswith("3.1.")
