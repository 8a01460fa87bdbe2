from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from handler.auth import Authenticator
from handler.contract import ENDPOINTS, Endpoint
from handler.engine.snapshot import Snapshot
from handler.errors import AuthenticationError
from handler.requestlog.record import Status
from tests.asgi import Application

KEYS = {"alice": "sk-one", "bob": "sk-two"}


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


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
async def test_a_key_is_asked_for_where_the_contract_says_so(guarded: Application, endpoint: Endpoint) -> None:
    path = endpoint.path.format(model="llama", id="resp_1")
    bare = await guarded.client.request(endpoint.method, path)
    assert (bare.status_code == 401) == endpoint.needs_key
    known = await guarded.client.request(endpoint.method, path, headers={"authorization": "Bearer sk-two"})
    assert known.status_code != 401
    assert endpoint.needs_key or bare.status_code == 200


async def test_no_path_below_v1_is_open(guarded: Application) -> None:
    assert (await guarded.client.get("/v1/unknown")).status_code == 401


async def test_the_description_names_the_scheme_where_keys_are_set(guarded: Application) -> None:
    document = (await guarded.client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    assert document["paths"]["/v1/completions"]["post"]["security"] == [{"bearer": []}]
    assert "security" not in document["paths"]["/health"]["get"]
