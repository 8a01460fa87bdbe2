from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from handler import __version__
from handler.engine.snapshot import Snapshot
from handler.engine.status import EngineState
from tests.asgi import Application

LENGTH_CODE = "context_length_exceeded"


@pytest.fixture
async def application(tiny_served: Snapshot, tmp_path: Path) -> AsyncIterator[Application]:
    async with Application(tiny_served, tmp_path, {"MAX_BODY_BYTES": "2048"}) as application:
        yield application


def detail(response: httpx.Response) -> dict[str, object]:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error: dict[str, object] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v2/models",
        "/v1/chat",
        "/v1/completions/",
        "/v1/models/x",
        "/v1/models/llama/llama",
        "/health/",
        "/docs/",
        "/docs/static",
        "/docs/static/",
        "/docs/static/../openapi.py",
        "/docs/static/%2e%2e/__init__.py",
        "/docs/static/%00",
        "//health",
        "/" + "x" * 5000,
        "/%ff%0a%1b",
    ],
)
async def test_an_unknown_path_is_openais_404(application: Application, path: str) -> None:
    response = await application.client.get(path)
    assert response.status_code == 404
    assert detail(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "path", ["images/generations", "audio/speech", "moderations", "files", "batches", "assistants", "fine_tuning/jobs"]
)
async def test_what_openai_has_and_this_has_not_is_named(application: Application, path: str) -> None:
    response = await application.client.post(f"/v1/{path}", json={"model": "llama"})
    assert response.status_code == 404
    assert detail(response)["message"] == f"Not Found: POST /v1/{path}"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/completions", "POST"),
        ("OPTIONS", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/health", "GET, HEAD"),
        ("POST", "/docs/static/swagger-ui.css", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_openais_405(application: Application, method: str, path: str, allowed: str) -> None:
    response = await application.client.request(method, path)
    assert response.status_code == 405
    assert sorted(response.headers["allow"].split(", ")) == sorted(allowed.split(", "))
    assert f"{method} {path}" in str(detail(response)["message"])


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/openapi.json", "/docs", "/metrics"])
async def test_head_is_get_without_a_body(application: Application, path: str) -> None:
    response = await application.client.head(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == (await application.client.get(path)).headers["content-type"]


async def test_a_senseless_host_header_changes_nothing(application: Application) -> None:
    response = await application.client.get("/nowhere", headers={"host": "[::bad"})
    assert response.status_code == 404
    assert detail(response)["message"] == "Not Found: GET /nowhere"


@pytest.mark.parametrize("given", [None, "application/json", "Application/JSON; charset=utf-8"])
async def test_json_is_taken_under_its_names(application: Application, given: str | None) -> None:
    headers = {} if given is None else {"content-type": given}
    body = b'{"model": "llama", "prompt": "hi", "max_tokens": 1}'
    response = await application.client.post("/v1/completions", content=body, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("given", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
async def test_anything_else_is_415(application: Application, given: str) -> None:
    response = await application.client.post("/v1/completions", content=b"{}", headers={"content-type": given})
    assert response.status_code == 415
    assert detail(response)["code"] == "unsupported_media_type"


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("br, gzip", 415), ("identity", 200)])
async def test_a_compressed_body_is_415(application: Application, encoding: str, status: int) -> None:
    body = b'{"model": "llama", "prompt": "hi", "max_tokens": 1}'
    response = await application.client.post("/v1/completions", content=body, headers={"content-encoding": encoding})
    assert response.status_code == status


async def test_a_body_may_be_as_large_as_the_limit_and_no_larger(application: Application) -> None:
    for size, status in ((2048, 200), (2049, 413)):
        body = b'{"model": "llama", "prompt": "hi", "max_tokens": 1'
        body += b" " * (size - len(body) - 1) + b"}"
        response = await application.client.post("/v1/completions", content=body)
        assert response.status_code == status
    error = detail(response)
    assert (error["code"], error["message"]) == ("body_too_large", "The body is larger than 2048 bytes")


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code"),
    [
        ("chat/completions", '{"model": "llama", "messages": []}', 400, "messages", None),
        ("chat/completions", '{"model": "llama", "messages": [{"role": "x"}]}', 400, "messages[0].role", None),
        ("completions", '{"model": "llama2", "prompt": "a"}', 404, "model", "model_not_found"),
        ("completions", '{"model": "llama"', 400, None, None),
        ("completions", '{"model": "llama", "prompt": ""}', 400, "prompt", None),
        ("completions", '{"model": "llama", "prompt": [1, "a"]}', 400, "prompt[1]", None),
        ("completions", '{"model": "llama", "prompt": [1, 259]}', 400, "prompt", None),
        ("completions", '{"model": "llama", "prompt": ["a", ""]}', 400, "prompt[1]", None),
        ("completions", '{"model": "llama", "prompt": "a", "max_tokens": 1024}', 400, "max_tokens", LENGTH_CODE),
        ("completions", '{"model": "llama", "prompt": "%s"}' % ("a" * 1024), 400, "prompt", LENGTH_CODE),
        ("completions", '{"model": "llama", "prompt": "a", "n": 129}', 400, "n", None),
        ("completions", '{"model": "llama", "prompt": "a", "stream_options": {}}', 400, "stream_options", None),
        ("completions", '{"model": "llama", "prompt": "a", "bestof": 2}', 400, "bestof", None),
    ],
)  # fmt: skip
async def test_a_bad_request_names_its_field(
    application: Application, path: str, body: str, status: int, param: str | None, code: str | None
) -> None:
    response = await application.client.post(f"/v1/{path}", content=body)
    assert response.status_code == status
    error = detail(response)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    (record,) = application.records()
    assert record.http_status == status
    assert record.error_message == error["message"]


async def test_the_model_is_listed_with_what_clients_need(application: Application) -> None:
    response = await application.client.get("/v1/models")
    model = {"id": "llama", "object": "model", "created": 1767225600, "owned_by": "pilotlight", "max_model_len": 1024}
    assert response.json() == {"object": "list", "data": [model]}


async def test_embeddings_are_refused_with_the_reason(application: Application) -> None:
    response = await application.client.post("/v1/embeddings", json={"model": "llama", "input": "a"})
    assert response.status_code == 400
    error = detail(response)
    assert (error["param"], error["message"]) == ("model", "The model 'llama' generates text; it makes no embeddings")


@pytest.mark.parametrize("name", ["llama", "org/llama"])
async def test_a_model_is_found_by_its_name(tiny_served: Snapshot, tmp_path: Path, name: str) -> None:
    snapshot = msgspec.structs.replace(tiny_served, name=name)
    async with Application(snapshot, tmp_path) as application:
        for given in {name, name.replace("/", "%2F")}:
            response = await application.client.get(f"/v1/models/{given}")
            assert (response.status_code, response.json()["id"]) == (200, name)


async def test_the_version_is_the_packages(application: Application) -> None:
    assert (await application.client.get("/version")).json() == {"version": __version__}


async def test_probes_follow_the_life_of_the_process(application: Application) -> None:
    client = application.client
    assert (await client.get("/health")).json() == {"status": "ok", "engine": "ready", "devices": {"cpu": "ready"}}
    assert (await client.get("/ready")).json() == {"status": "ready"}
    startup = (await client.get("/startup")).json()
    assert startup["status"] == "ready"
    assert [phase["name"] for phase in startup["phases"]][-3:] == ["weights", "kv_cache", "warm_up"]
    assert all(phase["start_s"] <= phase["end_s"] <= startup["ready_s"] for phase in startup["phases"])
    assert (startup["model"]["name"], startup["error"]) == ("llama", None)
    assert startup["devices"] == [{"device": "cpu", "state": "ready", "error": None}]
    ping = await client.get("/ping")
    assert (ping.status_code, ping.content) == (200, b"")
    application.service.admission.is_stopping = True
    assert (await client.get("/ping")).status_code == 503
    ready = await client.get("/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "stopping"})
    assert (await client.get("/health")).status_code == 200
    refused = await client.post("/v1/completions", json={"model": "llama", "prompt": "a"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert detail(refused)["code"] == "stopping"
    application.engine.stop(10)
    assert application.engine.state is EngineState.STOPPED
    dead = await client.get("/health")
    assert (dead.status_code, dead.json()["status"], dead.json()["engine"]) == (503, "dead", "stopped")
    assert (await client.get("/ping")).status_code == 503


async def test_browsers_may_call_from_the_named_origins_only(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, {"CORS_ORIGINS": "https://a.example"}) as application:
        client = application.client
        preflight = {
            "origin": "https://a.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-lang,x-stainless-retry-count",
        }
        response = await client.options("/v1/chat/completions", headers=preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        allowed = response.headers["access-control-allow-headers"].lower()
        assert "x-stainless-lang" in allowed
        assert "authorization" in allowed
        other = await client.options("/v1/chat/completions", headers=preflight | {"origin": "https://b.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        # An error that a script may not read is an error that nobody can act upon.
        error = await client.post("/v1/completions", content=b"{", headers={"origin": "https://a.example"})
        assert error.status_code == 400
        assert error.headers["access-control-allow-origin"] == "https://a.example"
        assert "x-request-id" in error.headers["access-control-expose-headers"]


async def test_without_origins_no_answer_speaks_to_browsers_elsewhere(application: Application) -> None:
    preflight = {"origin": "https://a.example", "access-control-request-method": "POST"}
    for method, path in (("OPTIONS", "/v1/completions"), ("GET", "/health"), ("GET", "/docs")):
        response = await application.client.request(method, path, headers=preflight)
        assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_a_preflight_needs_no_key_and_opens_nothing(tiny_served: Snapshot, tmp_path: Path) -> None:
    environ = {"CORS_ORIGINS": "https://a.example", "API_KEYS": "sk-one"}
    origin = {"origin": "https://a.example"}
    async with Application(tiny_served, tmp_path, environ) as application:
        preflight = origin | {"access-control-request-method": "POST"}
        response = await application.client.options("/v1/completions", headers=preflight)
        assert (response.status_code, response.text) == (200, "OK")
        assert (await application.client.options("/v1/completions", headers=origin)).status_code == 401
        refused = await application.client.post("/v1/completions", json={}, headers=origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example"
        (record,) = application.records()
        assert record.http_status == 401


async def test_an_open_origin_never_comes_with_credentials(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, {"CORS_ORIGINS": "*"}) as application:
        for headers in ({}, {"cookie": "a=b"}):
            response = await application.client.get("/v1/models", headers={"origin": "https://a.example"} | headers)
            assert response.headers["access-control-allow-origin"] in {"*", "https://a.example"}
            assert "access-control-allow-credentials" not in response.headers
