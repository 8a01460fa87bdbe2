from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handler import openapi
from handler.engine.snapshot import Snapshot
from handler.http_errors import ERROR_TABLE
from handler.schema.chat import ChatCompletionRequest
from tests.asgi import Application

# What OpenAPI 3.1 allows where this description uses it; a key that the standard does not know is refused.


class Info(msgspec.Struct, forbid_unknown_fields=True):
    title: str
    version: str
    description: str


class MediaType(msgspec.Struct, forbid_unknown_fields=True):
    schema: dict[str, Any]


class RequestBody(msgspec.Struct, forbid_unknown_fields=True):
    content: dict[str, MediaType]
    required: bool = False


class Response(msgspec.Struct, forbid_unknown_fields=True):
    description: str
    content: dict[str, MediaType] = {}


class Parameter(msgspec.Struct, forbid_unknown_fields=True, rename={"place": "in"}):
    name: str
    place: str
    required: bool
    schema: dict[str, Any]


class Operation(msgspec.Struct, forbid_unknown_fields=True):
    summary: str
    responses: dict[str, Response]
    parameters: list[Parameter] = []
    requestBody: RequestBody | None = None  # noqa: N815  (the standard's spelling)
    security: list[dict[str, list[str]]] = []


class PathItem(msgspec.Struct, forbid_unknown_fields=True):
    get: Operation | None = None
    post: Operation | None = None


class Components(msgspec.Struct, forbid_unknown_fields=True):
    schemas: dict[str, dict[str, Any]]
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
    "minItems", "maxItems", "minProperties", "maxProperties", "propertyNames", "discriminator", "pattern",
}  # fmt: skip
TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}


def schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(key), dict):
            yield from schemas(schema[key])
    for child in [*schema.get("anyOf", []), *schema.get("properties", {}).values()]:
        yield from schemas(child)


@pytest.fixture(params=[True, False])
def raw(request: pytest.FixtureRequest) -> dict[str, Any]:
    return openapi.describe_api(with_auth=request.param, with_metrics=True)


def test_the_document_is_openapi_3_1(raw: dict[str, Any]) -> None:
    document = msgspec.convert(raw, Document)
    assert re.fullmatch(r"3\.1\.\d+", document.openapi)
    for path, item in document.paths.items():
        assert path.startswith("/")
        for operation in filter(None, (item.get, item.post)):
            assert operation.responses
            for status, response in operation.responses.items():
                assert re.fullmatch(r"[2-5]\d\d", status)
                assert response.description


def test_every_schema_is_json_schema_and_every_reference_leads_somewhere(raw: dict[str, Any]) -> None:
    document = msgspec.convert(raw, Document)
    known = {f"#/components/schemas/{name}" for name in document.components.schemas}
    used = set()
    roots = list(document.components.schemas.values())
    for item in document.paths.values():
        for operation in filter(None, (item.get, item.post)):
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
    # Chunks stand in the description of the stream, which has no JSON schema of its own.
    assert known - used <= {"#/components/schemas/ChatCompletionChunk"}


def test_every_wire_type_has_all_its_fields(raw: dict[str, Any]) -> None:
    for kind in openapi._TYPES:
        schema = raw["components"]["schemas"][kind.__name__]
        assert set(schema["properties"]) == set(kind.__struct_encode_fields__), kind
    assert raw["components"]["schemas"]["ChatCompletionRequest"]["additionalProperties"] is False


def test_limits_are_the_decoders(raw: dict[str, Any]) -> None:
    properties = raw["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert {"type": "number", "description": "0 takes the likeliest token.", "minimum": 0, "maximum": 2} in properties[
        "temperature"
    ]["anyOf"]
    assert properties["messages"]["minItems"] == 1


def test_every_error_status_of_a_completion_is_described(raw: dict[str, Any]) -> None:
    statuses = {str(entry.status) for entry in ERROR_TABLE.values()}
    for path in ("/v1/chat/completions", "/v1/completions"):
        responses = raw["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", *statuses}
        for status in statuses:
            schema = responses[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorBody"}
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}


def test_a_new_field_of_a_request_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    extended = msgspec.defstruct(
        "ChatCompletionRequest",
        [("new_field", int | None, None)],
        bases=(ChatCompletionRequest,),
        kw_only=True,
        frozen=True,
    )
    kinds = tuple(extended if kind is ChatCompletionRequest else kind for kind in openapi._TYPES)
    monkeypatch.setattr(openapi, "_TYPES", kinds)
    document = openapi.describe_api(with_auth=False, with_metrics=True)
    assert "new_field" in document["components"]["schemas"]["ChatCompletionRequest"]["properties"]


async def test_every_described_path_is_served(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path) as application:
        document = (await application.client.get("/openapi.json")).json()
        assert document == openapi.describe_api(with_auth=False, with_metrics=True)
        for path, item in document["paths"].items():
            for method in item:
                response = await application.client.request(method, path.format(model=tiny_served.name))
                assert str(response.status_code) in item[method]["responses"], path


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
