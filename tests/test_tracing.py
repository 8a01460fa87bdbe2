from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from handler.contract import ENDPOINTS, Endpoint
from handler.engine.snapshot import Snapshot
from handler.errors import SpoolError
from handler.logs import ENTRIES, FIELDS
from handler.outbox import BEFORE_WRITE
from handler.requestlog.record import Record
from tests.asgi import Application, Exchange

PATH = "/v1/completions"


@pytest.fixture
async def application(tiny_served: Snapshot, tmp_path: Path) -> AsyncIterator[Application]:
    async with Application(tiny_served, tmp_path) as application:
        yield application


def asking(**fields: object) -> dict[str, Any]:
    return {"model": "llama", "prompt": "hi", "max_tokens": 3, "ignore_eos": True} | fields


async def answer(application: Application, body: object, **headers: str) -> Exchange:
    exchange = Exchange(application, PATH, body, **headers)
    await exchange.done()
    return exchange


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 128])
async def test_a_valid_id_of_the_client_is_kept_everywhere(application: Application, given: str) -> None:
    exchange = await answer(application, asking(), x_request_id=given)
    assert exchange.headers["x-request-id"] == given
    assert f'"cmpl-{given}"'.encode() in exchange.body
    (record,) = application.records()
    assert record.request_id == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "é", "../x", "a;drop"])
async def test_any_other_is_replaced(application: Application, given: str) -> None:
    exchange = await answer(application, asking(), x_request_id=given)
    made = exchange.headers["x-request-id"]
    assert made != given
    assert len(made) == 32
    assert f'"cmpl-{made}"'.encode() in exchange.body
    (record,) = application.records()
    assert record.request_id == made


@pytest.mark.parametrize("sends_whole", [False, True])
@pytest.mark.parametrize(
    ("fields", "tokens"), [({"stream": True}, 3), ({"stream": False}, 3), ({"model": "other"}, None)]
)
async def test_the_record_is_there_before_the_last_byte(
    application: Application, fields: dict[str, object], tokens: int | None, *, sends_whole: bool
) -> None:
    exchange = Exchange(application, PATH, asking(**fields), sends_whole=sends_whole)
    found: list[Record] = []
    exchange.before_last = lambda: found.extend(application.records())
    await exchange.done()
    assert exchange.is_complete
    (record,) = found
    assert (record.http_status, record.completion_tokens) == (exchange.status, tokens)
    assert application.records() == []


_LIMITED = {"RATE_LIMIT_REQUESTS_PER_MINUTE": "100"}


@pytest.mark.parametrize(
    ("environ", "path", "wraps"),
    [
        ({}, PATH, 0),
        ({}, "/invocations", 0),
        ({"CORS_ORIGINS": "https://a.example"}, PATH, 1),
        (_LIMITED, PATH, 1),
        (_LIMITED | {"CORS_ORIGINS": "*"}, "/invocations", 2),
    ],
)
async def test_an_answer_is_sent_whole_only_where_nobody_has_to_see_it_pass(
    tiny_served: Snapshot, tmp_path: Path, environ: dict[str, str], path: str, wraps: int
) -> None:
    async with Application(tiny_served, tmp_path, environ) as application:
        found: list[tuple[list[str], bytes]] = []
        for sends_whole in (False, True):
            exchange = Exchange(
                application,
                path,
                asking(temperature=0),
                sends_whole=sends_whole,
                origin="https://a.example",
                x_request_id="x",
            )
            await exchange.done()
            (record,) = application.records()
            assert (record.status, record.http_status, record.completion_tokens) == ("success", 200, 3)
            found.append((sorted(exchange.headers), exchange.body.partition(b'"choices"')[2]))
            assert exchange.num_whole == (sends_whole and not wraps)
        assert found[0] == found[1]
        names = found[0][0]
        assert ("access-control-allow-origin" in names) == ("CORS_ORIGINS" in environ)
        assert ("x-ratelimit-limit-requests" in names) == (_LIMITED.items() <= environ.items())


async def test_instances_are_answered_as_one(application: Application) -> None:
    body = {"instances": [asking(), asking()]}
    exchange = Exchange(application, "/invocations", body, sends_whole=True)
    await exchange.done()
    assert len(orjson.loads(exchange.body)["predictions"]) == 2


async def test_only_what_does_something_is_a_record(application: Application) -> None:
    for path in ("/v1/models", "/health", "/metrics"):
        await application.client.get(path)
    await application.client.post("/elsewhere")
    assert application.records() == []
    await application.client.post("/v1/elsewhere")
    (record,) = application.records()
    assert (record.endpoint, record.http_status) == ("/v1/elsewhere", 404)


@pytest.mark.parametrize("endpoint", [each for each in ENDPOINTS if each.method == "POST"], ids=lambda each: each.path)
async def test_every_endpoint_that_takes_post_leaves_a_record(application: Application, endpoint: Endpoint) -> None:
    for body in endpoint.examples.values() or [{}]:
        response = await application.client.post(endpoint.path, json={"model": "llama"} | body)
        (record,) = application.records()
        assert (record.endpoint, record.http_status) == (endpoint.path, response.status_code)
        assert record.request_id == response.headers["x-request-id"]


async def test_every_record_has_its_log_line(application: Application, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "handler.access")
    await answer(application, asking(metadata={"team": "a"}))
    await answer(application, asking(max_tokens=-1))
    access = [entry for entry in caplog.records if entry.name == "handler.access"]
    good, bad = [fields for entry in access for fields in getattr(entry, ENTRIES)]
    records = application.records()
    for entry, record in zip((good, bad), records, strict=True):
        assert entry.request_id == record.request_id
        assert entry.status == record.status
        assert entry.duration_ms == pytest.approx(record.duration_ms, abs=0.1)
    assert (good.model_name, good.prompt_tokens, good.completion_tokens) == ("llama", 2, 3)
    assert good.error_type is None
    assert bad.error_type == "InvalidRequestError"
    assert records[0].metadata == {"team": "a"}
    assert len({record.instance_id for record in records}) == 1


async def test_a_full_disk_does_not_spoil_the_answer(
    application: Application, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(record: Record) -> None:
        raise SpoolError("no space left")

    monkeypatch.setattr(application.spool, "append", refuse)
    exchange = await answer(application, asking())
    assert exchange.status == 200
    assert exchange.is_complete
    (entry,) = [getattr(entry, FIELDS) for entry in caplog.records if entry.message == "record not spooled"]
    assert entry["cause"] == "no space left"
    assert entry["request_id"] == exchange.headers["x-request-id"]
    assert entry["completion_tokens"] == 3
    assert "request_log_unspooled_records_total 1.0" in (await application.client.get("/metrics")).text


async def test_where_responses_are_gathered_records_are_kept_together_before_any_leaves(
    application: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "handler.access")
    actions: list[Callable[[], None]] = []
    kept: list[int] = []
    append = application.spool.append
    monkeypatch.setattr(application.spool, "append", lambda *records: (kept.append(len(records)), append(*records)))
    exchanges = [Exchange(application, PATH, asking(), extensions={BEFORE_WRITE: actions.append}) for _ in range(3)]
    for exchange in exchanges:
        await exchange.done()
    assert kept == []
    (action,) = actions  # asked for once
    action()
    assert kept == [3]
    ids = [exchange.headers["x-request-id"] for exchange in exchanges]
    assert sorted(record.request_id for record in application.records()) == sorted(ids)
    (entries,) = [getattr(entry, ENTRIES) for entry in caplog.records if entry.name == "handler.access"]
    assert sorted(entry.request_id for entry in entries) == sorted(ids)
    await Exchange(application, PATH, asking(), extensions={BEFORE_WRITE: actions.append}).done()
    assert len(actions) == 2
    await Exchange(application, PATH, asking()).done()  # whose bytes nobody holds back
    assert kept == [3, 2]
    actions[1]()
    assert kept == [3, 2]


async def test_a_record_that_cannot_be_kept_does_not_take_others_with_it(
    application: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    actions: list[Callable[[], None]] = []
    append = application.spool.append

    def picky(*records: Record) -> None:
        if any(record.request_id == "bad" for record in records):
            raise SpoolError("no good")
        append(*records)

    monkeypatch.setattr(application.spool, "append", picky)
    for name in ("one", "bad", "two"):
        await Exchange(application, PATH, asking(), extensions={BEFORE_WRITE: actions.append}, x_request_id=name).done()
    actions[0]()
    assert [record.request_id for record in application.records()] == ["one", "two"]
    lost = [getattr(entry, FIELDS) for entry in caplog.records if entry.message == "record not spooled"]
    assert [(entry["request_id"], entry["cause"]) for entry in lost] == [("bad", "no good")]
