from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from handler.engine.snapshot import Snapshot
from handler.rate_limits.allowance import duration
from handler.requestlog.record import Status
from tests.asgi import Application, Exchange
from tests.rate_limits.clock import Clock
from tests.redis_server import RedisServer, hanging_redis
from tests.scripted import fails, scripted

ROOT = Path(__file__).parents[2]
KEYS = {"API_KEYS": "alice:sk-one,bob:sk-two"}
TEXT: dict[str, Any] = {"model": "llama", "prompt": "hi", "max_tokens": 4, "ignore_eos": True}  # 2 tokens and 4
PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize", "/detokenize", "/invocations")

Served = Callable[..., Application]


@pytest.fixture
def served(tiny_served: Snapshot, tmp_path: Path, clock: Clock) -> Served:
    """Makes an application with these settings, whose limits know the test's time."""
    del clock
    return lambda **environ: Application(tiny_served, tmp_path, KEYS | environ)


async def post(
    application: Application, body: dict[str, Any] | None = None, key: str = "sk-one", path: str = PATHS[0]
) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return await application.client.post(path, json=TEXT if body is None else body, headers=headers)


def limits(response: httpx.Response, kind: str) -> tuple[str, ...]:
    return tuple(response.headers[f"x-ratelimit-{what}-{kind}"] for what in ("limit", "remaining", "reset"))


async def test_each_key_has_its_requests_of_a_minute(served: Served, clock: Clock) -> None:
    async with served(RATE_LIMIT_REQUESTS_PER_MINUTE="2,bob:3") as application:
        assert limits(await post(application), "requests") == ("2", "1", "1m30s")
        assert limits(await post(application), "requests") == ("2", "0", "1m30s")
        refused = await post(application)
        assert (refused.status_code, limits(refused, "requests")[1]) == (429, "0")
        error = refused.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
        assert error["message"] == "The limit of 2 requests a minute is reached: 0 are left, 1 asked for"
        row = application.records()[-1]
        assert (row.status, row.error_type, row.api_key_id) == (Status.REJECTED, "RateLimitError", "alice")
        assert limits(await post(application, key="sk-two"), "requests") == ("3", "2", "1m30s")
        clock.now_s += int(refused.headers["retry-after"]) - 1
        assert (await post(application)).status_code == 429
        clock.now_s += 1
        assert (await post(application)).status_code == 200
        clock.now_s += 120
        assert limits(await post(application), "requests")[1] == "1"


@pytest.mark.parametrize("limit", [{"RATE_LIMIT_REQUESTS_PER_MINUTE": "1"}, {"RATE_LIMIT_TOKENS_PER_MINUTE": "6"}])
async def test_a_refusal_comes_before_the_body(served: Served, limit: dict[str, str]) -> None:
    async with served(**limit) as application:
        assert (await post(application)).status_code == 200

        async def receive() -> Any:
            raise AssertionError("the body is not for somebody who is refused")

        messages: list[Any] = []

        async def send(message: Any) -> None:
            messages.append(message)

        for path in PATHS:
            headers = [(b"authorization", b"Bearer sk-one")]
            scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
            await application.app(scope, receive, send)
            assert messages[-2]["status"] == 429, path


@pytest.mark.parametrize("path", PATHS)
async def test_no_other_spelling_of_a_path_is_without_limits(served: Served, path: str) -> None:
    async with served(RATE_LIMIT_REQUESTS_PER_MINUTE="1") as application:
        response = await post(application, path=f"{path}%0A")
        assert (response.status_code, response.json()["error"]["type"]) == (404, "invalid_request_error")
        stranger = await application.client.post(f"{path}%0A", json=TEXT)
        assert stranger.status_code == 401


async def test_every_answer_says_what_is_left(served: Served) -> None:
    async with served(RATE_LIMIT_REQUESTS_PER_MINUTE="9", RATE_LIMIT_TOKENS_PER_MINUTE="100") as application:
        answers = [await post(application, path=path) for path in PATHS]
        answers += [await post(application, TEXT | {"model": "other"}), await post(application, TEXT | {"n": 999})]
        assert {response.status_code for response in answers} == {200, 400, 404}
        assert [int(limits(response, "requests")[1]) for response in answers] == [8, 7, 6, 5, 4, 3, 2, 1]
        assert all(limits(response, "tokens")[0] == "100" for response in answers)
        stream = await post(application, TEXT | {"stream": True})
        assert (limits(stream, "requests")[1], limits(stream, "tokens")[:2]) == ("0", ("100", "82"))
        refused = await post(application)
        assert (refused.status_code, limits(refused, "tokens")[0]) == (429, "100")
        others = [await application.client.get(path) for path in ("/health", "/v1/models")]
        assert all("x-ratelimit-limit-requests" not in response.headers for response in others)


async def test_without_keys_all_share_one_limit(tiny_served: Snapshot, tmp_path: Path, clock: Clock) -> None:
    del clock
    async with Application(tiny_served, tmp_path, {"RATE_LIMIT_REQUESTS_PER_MINUTE": "1"}) as application:
        assert (await post(application, key="sk-one")).status_code == 200
        assert (await post(application, key="sk-two")).status_code == 429


async def test_a_key_without_a_limit_has_none(served: Served) -> None:
    async with served(RATE_LIMIT_REQUESTS_PER_MINUTE="bob:1") as application:
        for _ in range(3):
            response = await post(application)
            assert response.status_code == 200
            assert "x-ratelimit-limit-requests" not in response.headers
        assert [(await post(application, key="sk-two")).status_code for _ in range(2)] == [200, 429]


async def test_tokens_are_reserved_and_what_is_not_used_comes_back(served: Served) -> None:
    async with served(RATE_LIMIT_TOKENS_PER_MINUTE="100") as application:
        body = TEXT | {"max_tokens": 60, "stream": True}
        exchange = Exchange(application, PATHS[0], body, authorization="Bearer sk-one")
        exchange.block_at(1)
        async with asyncio.timeout(10):
            await exchange.is_blocked.wait()
        assert exchange.headers["x-ratelimit-remaining-tokens"] == "38"
        refused = await post(application, TEXT | {"max_tokens": 60})
        assert (refused.status_code, limits(refused, "tokens")) == (429, ("100", "38", "1m30s"))
        assert refused.json()["error"]["message"].endswith("38 are left, 62 asked for")
        assert (await post(application, TEXT)).status_code == 200
        exchange.leave()
        exchange.may_send.set()
        await exchange.done()
        used = sum((row.prompt_tokens or 0) + (row.completion_tokens or 0) for row in application.records())
        assert 8 < used <= 68
        left = 100 - used - 6  # of the next request
        assert limits(await post(application, TEXT), "tokens")[:2] == ("100", str(left))


@pytest.mark.parametrize("stream", [False, True])
async def test_the_next_request_finds_what_the_last_one_left(served: Served, *, stream: bool) -> None:
    stopping = {"ignore_eos": False, "max_tokens": 80, "stop_token_ids": list(range(259)), "stream": stream}
    async with served(RATE_LIMIT_TOKENS_PER_MINUTE="100") as application:
        for number in range(1, 6):
            response = await post(application, TEXT | stopping)
            assert response.status_code == 200
            assert limits(response, "tokens")[1] == str(100 - 82 - 3 * (number - 1))


async def test_what_is_left_is_known_before_the_last_byte_is_out(served: Served) -> None:
    stopping = {"ignore_eos": False, "max_tokens": 80, "stop_token_ids": list(range(259))}
    async with served(RATE_LIMIT_TOKENS_PER_MINUTE="100") as application:
        exchange = Exchange(application, PATHS[0], TEXT | stopping, authorization="Bearer sk-one")
        exchange.block_at(1)
        async with asyncio.timeout(10):
            await exchange.is_blocked.wait()
        assert limits(await post(application), "tokens")[1] == "91"
        exchange.may_send.set()
        await exchange.done()
        assert limits(await post(application), "tokens")[1] == "85"


async def test_a_completion_that_nobody_limits_counts_when_it_is_there(served: Served, clock: Clock) -> None:
    body = {key: value for key, value in TEXT.items() if key != "max_tokens"}
    async with served(RATE_LIMIT_TOKENS_PER_MINUTE="100", MAX_MODEL_LEN="256") as application:
        response = await post(application, body)
        assert (response.status_code, limits(response, "tokens")[1]) == (200, "98")
        assert response.json()["usage"]["total_tokens"] == 256
        refused = await post(application)
        assert (refused.status_code, limits(refused, "tokens")[1]) == (429, "0")
        clock.now_s += int(refused.headers["retry-after"])
        assert (await post(application, TEXT | {"prompt": [1], "max_tokens": 0, "echo": True})).status_code == 200


async def test_default_max_tokens_is_reserved_where_a_request_names_none(served: Served) -> None:
    body = {key: value for key, value in TEXT.items() if key != "max_tokens"}
    async with served(RATE_LIMIT_TOKENS_PER_MINUTE="100", DEFAULT_MAX_TOKENS="30") as application:
        assert limits(await post(application, body), "tokens")[1] == "68"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (TEXT | {"max_tokens": 99}, "max_tokens"),
        (TEXT | {"n": 5, "max_tokens": 20}, "max_tokens"),
        (TEXT | {"prompt": ["hi", "ho"], "max_tokens": 49}, "max_tokens"),
        (TEXT | {"prompt": "x" * 101, "max_tokens": None}, "max_tokens"),
        ({"model": "llama", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 99},
         "max_completion_tokens"),
        ({"model": "llama", "input": "hi", "max_output_tokens": 99}, "max_output_tokens"),
    ],
)  # fmt: skip
async def test_what_no_minute_has_is_refused_for_good(served: Served, body: dict[str, Any], param: str) -> None:
    path = PATHS[1] if "messages" in body else PATHS[2] if "input" in body else PATHS[0]
    async with served(RATE_LIMIT_TOKENS_PER_MINUTE="100") as application:
        for route in (path, "/invocations"):
            response = await post(application, body, path=route)
            assert response.status_code == 400
            error = response.json()["error"]
            assert error["param"] == param
            assert error["message"].endswith("its key may use 100 a minute")
            assert limits(response, "tokens")[1] == "100"
        assert application.engine.stats.num_running == 0


async def test_instances_count_one_request_and_all_their_tokens(served: Served) -> None:
    async with served(RATE_LIMIT_REQUESTS_PER_MINUTE="9", RATE_LIMIT_TOKENS_PER_MINUTE="100") as application:
        response = await post(application, {"instances": [TEXT] * 3}, path="/invocations")
        assert limits(response, "requests")[1] == "8"
        assert limits(response, "tokens")[1] == "82"
        assert limits(await post(application), "tokens")[1] == "76"


async def test_the_period_that_reserved_gives_back_and_no_other(served: Served, clock: Clock) -> None:
    async with served(RATE_LIMIT_TOKENS_PER_MINUTE="100") as application:
        body = TEXT | {"max_tokens": 62, "stream": True}
        exchange = Exchange(application, PATHS[0], body, authorization="Bearer sk-one")
        exchange.block_at(1)
        async with asyncio.timeout(10):
            await exchange.is_blocked.wait()
        clock.now_s += 60
        assert limits(await post(application), "tokens")[1] == "62"  # half of the 64 still count
        exchange.leave()
        exchange.may_send.set()
        await exchange.done()
        assert limits(await post(application), "tokens")[1] == "56"


async def test_an_engines_error_costs_what_it_used(tiny_served: Snapshot, tmp_path: Path, clock: Clock) -> None:
    del clock
    environ = {"RATE_LIMIT_TOKENS_PER_MINUTE": "100"}
    async with Application(tiny_served, tmp_path, environ, engine_type=scripted([(0, fails())])) as application:
        response = await post(application, TEXT | {"max_tokens": 90})
        assert (response.status_code, limits(response, "tokens")[1]) == (500, "8")
        bad = await post(application, {})
        assert (bad.status_code, limits(bad, "tokens")[1]) == (400, "98")  # the prompt's two stay


async def test_a_browser_may_read_what_is_left(served: Served) -> None:
    async with served(RATE_LIMIT_REQUESTS_PER_MINUTE="1", CORS_ORIGINS="https://a.example") as application:
        for status in (200, 429):
            headers = {"authorization": "Bearer sk-one", "origin": "https://a.example"}
            response = await application.client.post(PATHS[0], json=TEXT, headers=headers)
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == "https://a.example"
            exposed = response.headers["access-control-expose-headers"].split(", ")
            assert {"x-request-id", "retry-after", "x-ratelimit-remaining-requests"} <= set(exposed)


async def test_a_redis_that_hangs_holds_nobody_up_for_long(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with hanging_redis() as url:
        environ = {"RATE_LIMIT_REQUESTS_PER_MINUTE": "5", "RATE_LIMIT_TOKENS_PER_MINUTE": "1000", "REDIS_URL": url}
        async with Application(tiny_served, tmp_path, environ) as application:
            answers = await asyncio.gather(*(post(application) for _ in range(10)))
            rows = application.records()
            assert sorted(response.status_code for response in answers) == [200] * 5 + [429] * 5
            assert max(row.duration_ms for row in rows) < 5000
            metrics = (await application.client.get("/metrics")).text
            assert "rate_limit_redis_failures_total 0.0" not in metrics
            assert "rate_limit_redis_failures_total" in metrics


async def test_instances_share_a_limit_in_redis(
    tiny_served: Snapshot, tmp_path: Path, redis_server: RedisServer
) -> None:
    environ = KEYS | {"RATE_LIMIT_REQUESTS_PER_MINUTE": "5", "REDIS_URL": redis_server.url}
    async with (
        Application(tiny_served, tmp_path / "one", environ) as one,
        Application(tiny_served, tmp_path / "two", environ) as two,
    ):
        answers = [await post(application) for application in (one, two) * 3]
        assert [response.status_code for response in answers] == [200] * 5 + [429]
        assert [limits(response, "requests")[1] for response in answers] == ["4", "3", "2", "1", "0", "0"]
        assert (await post(two, key="sk-two")).status_code == 200
        redis_server.kill()
        assert (await post(two)).status_code == 200


def test_who_sets_no_limit_does_not_pay_for_the_library() -> None:
    program = "import sys, handler.app; print([name for name in ('limits', 'redis') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.02, "20ms"), (1, "1s"), (59.4, "59s"), (59.6, "1m0s"), (360, "6m0s")]
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
