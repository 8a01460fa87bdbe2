from __future__ import annotations

import gc
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Message

from handler.auth import Authenticator
from handler.contract import ENDPOINTS, Endpoint
from handler.engine.snapshot import Snapshot
from handler.errors import AuthenticationError, ConfigurationError
from handler.keys import digest
from handler.requestlog.record import Status
from handler.settings import Settings
from tests.asgi import Application

KEYS = {"alice": digest("sk-one"), "bob": digest("sk-two")}


@pytest.fixture
async def guarded(tiny_served: Snapshot, tmp_path: Path) -> AsyncIterator[Application]:
    async with Application(tiny_served, tmp_path, {"API_KEYS": "alice:sk-one,bob:sk-two"}) as application:
        yield application


async def complete(application: Application, authorization: str | None) -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    body = {"model": "llama", "prompt": "hi", "max_tokens": 1}
    return await application.client.post("/v1/completions", json=body, headers=headers)


@pytest.mark.parametrize(
    ("authorization", "name"),
    [
        ("Bearer sk-one", "alice"),
        ("bearer sk-two", "bob"),
        ("BEARER  sk-two ", "bob"),
    ],
)
def test_each_key_has_its_name(authorization: str, name: str) -> None:
    assert Authenticator(KEYS).identify(authorization) == name


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer sk-three",
        "Bearer sk-on",
        "Bearer sk-one2",
        "Bearer sk-one,sk-two",
        "Bearer SK-ONE",
        "Bearer \xff",
        "sk-one",
        "Basic sk-one",
    ],
)
def test_anything_else_is_refused_without_repeating_it(authorization: str | None) -> None:
    with pytest.raises(AuthenticationError) as caught:
        Authenticator(KEYS).identify(authorization)
    assert "sk-" not in str(caught.value)


def test_a_header_that_was_found_good_stays_so_and_lets_no_other_in() -> None:
    authenticator = Authenticator(KEYS)
    for _ in range(2):
        assert authenticator.identify("Bearer sk-one") == "alice"
        assert authenticator.identify("Bearer sk-two") == "bob"
        for wrong in ("Bearer sk-on", "Bearer sk-onee", "sk-one", "", None):
            with pytest.raises(AuthenticationError):
                authenticator.identify(wrong)


def test_spellings_without_end_take_no_memory_without_end() -> None:
    authenticator = Authenticator(KEYS)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(2000):
            assert authenticator.identify(f"Bearer {' ' * number}sk-one") == "alice"
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_without_keys_everybody_may_call() -> None:
    assert Authenticator({}).identify(None) is None
    assert Authenticator({}).identify("Bearer anything") is None


async def test_the_keys_name_lands_in_the_record(guarded: Application) -> None:
    assert (await complete(guarded, "Bearer sk-two")).status_code == 200
    (record,) = guarded.records()
    assert (record.api_key_id, record.status) == ("bob", Status.SUCCESS)


@pytest.mark.parametrize("authorization", [None, "Bearer wrong"])
async def test_a_refusal_is_openais_and_a_record(guarded: Application, authorization: str | None) -> None:
    response = await complete(guarded, authorization)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"
    (record,) = guarded.records()
    assert (record.api_key_id, record.status, record.http_status) == (None, Status.REJECTED, 401)
    assert record.error_type == "AuthenticationError"


KEYLESS = Settings.from_env({}).keyless_paths


def test_any_path_but_those_that_cost_something_can_be_opened() -> None:
    openable = {endpoint.path for endpoint in ENDPOINTS if endpoint.method == "GET"}
    openable = {path for path in openable if not path.startswith("/v1/")}
    assert Settings.from_env({"KEYLESS_PATHS": ",".join(openable)}).keyless_paths == tuple(openable)
    for endpoint in ENDPOINTS:
        if endpoint.path not in openable:
            with pytest.raises(ConfigurationError, match="KEYLESS_PATHS"):
                Settings.from_env({"KEYLESS_PATHS": endpoint.path})


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
async def test_every_path_but_the_probes_needs_a_key(guarded: Application, endpoint: Endpoint) -> None:
    path = endpoint.path.format(model="llama", id="resp_1")
    for method in dict.fromkeys([endpoint.method, "GET", "HEAD", "POST", "OPTIONS", "PUT", "X"]):
        bare = await guarded.client.request(method, path)
        assert (bare.status_code == 401) == (path not in KEYLESS), method
        wrong = await guarded.client.request(method, path, headers={"authorization": "Bearer sk-three"})
        assert wrong.status_code == bare.status_code
    known = await guarded.client.request(endpoint.method, path, headers={"authorization": "Bearer sk-two"})
    assert known.status_code != 401
    assert path not in KEYLESS or known.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/unknown",
        "/v1",
        "/v1/unknown",
        "/v1/models/",
        "//v1/models",
        "/v1//models",
        "/v1/%6dodels",
        "/health/",
        "//health",
        "/health/../v1/models",
        "/health/%2e%2e/v1/models",
        "/health%00",
        "/health%0a",
        "/HEALTH",
        "/docs",
        "/docs/",
        "/docs/static",
        "/docs/static/swagger-ui.css",
        "/docs/static/../static/swagger-ui.css",
        "/x" * 2000,
    ],
)
async def test_a_stranger_does_not_even_learn_what_there_is(guarded: Application, path: str) -> None:
    for method in ("GET", "POST"):
        response = await guarded.client.request(method, path)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["/health?key=x", "/%68ealth", "/health#v1"])
async def test_a_probe_answers_under_every_spelling_that_means_it(guarded: Application, path: str) -> None:
    assert (await guarded.client.get(path)).status_code == 200


async def test_an_open_page_has_what_it_loads(tiny_served: Snapshot, tmp_path: Path) -> None:
    environ = {"API_KEYS": "sk-one", "KEYLESS_PATHS": "/docs,/openapi.json"}
    async with Application(tiny_served, tmp_path, environ) as application:
        for path, status in {
            "/docs": 200,
            "/openapi.json": 200,
            "/docs/static/swagger-ui.css": 200,
            "/docs/static/../../v1/models": 401,
            "/docs/other": 401,
            "/health": 401,
        }.items():
            assert (await application.client.get(path)).status_code == status, path
        document = (await application.client.get("/openapi.json")).json()
        assert document["paths"]["/health"]["get"]["security"] == [{"bearer": []}]
        assert "401" not in document["paths"]["/docs"]["get"]["responses"]


async def test_a_websocket_is_closed_before_anything_else(guarded: Application) -> None:
    for path in ("/v1/chat/completions", "/docs/static/swagger-ui.css", "/health"):
        sent: list[Message] = []

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": path, "headers": [(b"authorization", b"Bearer sk-one")]}
        await guarded.app(scope, never, send)
        assert [message["type"] for message in sent] == ["websocket.close"]


async def never() -> Message:
    raise AssertionError("nothing is read of a connection that is refused")


async def test_the_description_names_the_scheme_where_keys_are_set(guarded: Application) -> None:
    response = await guarded.client.get("/openapi.json", headers={"authorization": "Bearer sk-one"})
    document = response.json()
    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    assert document["paths"]["/v1/completions"]["post"]["security"] == [{"bearer": []}]
    assert "security" not in document["paths"]["/health"]["get"]


async def test_a_digest_in_the_settings_stands_for_its_key(tiny_served: Snapshot, tmp_path: Path) -> None:
    hexadecimal = hashlib.sha256(b"sk-one").hexdigest()
    async with Application(tiny_served, tmp_path, {"API_KEYS": f"alice:sha256:{hexadecimal}"}) as application:
        assert (await complete(application, "Bearer sk-one")).status_code == 200
        for presented in (hexadecimal, f"sha256:{hexadecimal}"):  # whoever reads the settings is not let in
            assert (await complete(application, f"Bearer {presented}")).status_code == 401
