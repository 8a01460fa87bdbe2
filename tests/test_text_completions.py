"""POST /v1/completions: several prompts, the best of several completions, prompts repeated and scored."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from handler.engine.events import TokenEvent
from handler.engine.snapshot import Snapshot
from handler.requestlog.record import Status
from tests.asgi import Application, Exchange
from tests.scripted import Script, ends, fails, likely, says, scripted
from tests.server import until

PATH = "/v1/completions"
OPTIONS = "stream_options"


async def ask(application: Application, **fields: Any) -> Exchange:
    exchange = Exchange(application, PATH, {"model": "llama", "temperature": 0, "ignore_eos": True} | fields)
    await exchange.done()
    return exchange


async def answer(application: Application, **fields: Any) -> dict[str, Any]:
    exchange = await ask(application, **fields)
    assert exchange.status == 200, exchange.body
    parsed: dict[str, Any] = orjson.loads(exchange.body)
    return parsed


def tokens(text: str, *logprobs: float) -> TokenEvent:
    entries = tuple(likely(letter, logprob) for letter, logprob in zip(text, logprobs, strict=True))
    return ends(text, logprobs=entries)


async def test_the_best_have_the_likeliest_tokens_on_average(tiny_served: Snapshot, tmp_path: Path) -> None:
    script: Script = [
        (0, tokens("aaaa", -1.0, -1.0, -1.0, -1.0)),
        (1, tokens("b", -1.5)),
        (2, tokens("cc", -0.5, -0.5)),
        (3, fails()),
        (4, fails()),
        (5, tokens("f", -9.0)),
        (6, tokens("gg", -3.0, -1.0)),
        (7, tokens("h", -3.0)),
    ]
    engine_type = scripted(script)
    async with Application(tiny_served, tmp_path, engine_type=engine_type) as application:
        body = await answer(application, prompt=["x", "y"], best_of=4, n=2, seed=5, temperature=1)
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [
        (0, "cc"),
        (1, "aaaa"),
        (2, "gg"),
        (3, "h"),
    ]
    assert all(choice["logprobs"] is None for choice in body["choices"])
    assert body["usage"]["completion_tokens"] == 4 + 1 + 2 + 1 + 2 + 1
    submitted = cast("Any", application.engine).submitted
    assert [params.seed for _, params in submitted] == [5, 6, 7, 8] * 2
    assert {params.logprobs for _, params in submitted} == {0}


async def test_a_failed_completion_is_among_the_best_only_where_too_few_are_left(
    tiny_served: Snapshot, tmp_path: Path
) -> None:
    script: Script = [(0, fails()), (1, tokens("b", -9.0)), (2, fails())]
    async with Application(tiny_served, tmp_path, engine_type=scripted(script)) as application:
        body = await answer(application, prompt="x", best_of=3, n=2, logprobs=0)
    first, second = body["choices"]
    assert (first["text"], first["finish_reason"], first["logprobs"]["token_logprobs"]) == ("b", "length", [-9.0])
    assert (second["text"], second["finish_reason"]) == ("", "error")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"best_of": 1, "n": 2}, "best_of", "below n 2"),
        ({"best_of": 3, "stream": True}, "best_of", "cannot be streamed"),
        ({"best_of": 129}, "best_of", "129|128"),
        ({"best_of": 9, "prompt": ["a"] * 100}, "prompt", "sequences"),
        ({"best_of": 128, "n": 2}, "best_of", "sequences"),
        ({"suffix": "end"}, "suffix", "not supported. The model goes on with a text"),
        ({"prompt": ["a", "b" * 30, "c"]}, "prompt[1]", "prompt[1]: the prompt has 30 tokens"),
        ({"prompt": [[1], [2, 300]]}, "prompt[1]", "token 300"),
        ({"prompt": ["a", ""]}, "prompt[1]", "no tokens"),
        ({"prompt": "b" * 21, "max_tokens": 0}, "prompt", "holds 20"),
        ({"prompt": "b" * 20, "max_tokens": None}, "prompt", "at least one must be left"),
        ({"bad_words": ["x", " "]}, "bad_words[1]", "white space"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, f"{OPTIONS}.include_obfuscation", "padded"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, f"{OPTIONS}.continuous_usage_stats", ""),
    ],
)
async def test_what_cannot_be_done_is_refused_before_any_work(
    fields: dict[str, Any], param: str, words: str, tiny_served: Snapshot, tmp_path: Path
) -> None:
    environ = {"MAX_BATCH_SIZE": "16", "MAX_QUEUED_REQUESTS": "16", "MAX_MODEL_LEN": "20"}
    async with Application(tiny_served, tmp_path, environ, engine_type=scripted([(0, ends())])) as application:
        exchange = await ask(application, **({"prompt": "a", "max_tokens": 2} | fields))
        error = orjson.loads(exchange.body)["error"]
        assert (exchange.status, error["param"]) == (400, param)
        assert any(word in error["message"] for word in words.split("|"))
        assert cast("Any", application.engine).submitted == []
        assert application.service.admission.occupancy.num_admitted == 0


async def test_a_full_context_can_be_scored_and_no_more(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, {"MAX_MODEL_LEN": "20"}) as application:
        body = await answer(application, prompt="b" * 20, max_tokens=0, echo=True, logprobs=0)
        assert len(body["choices"][0]["logprobs"]["tokens"]) == 20


PARTLY: Script = [(0, says("a")), (1, says("b")), (2, says("c")), (1, fails()), (0, ends("x")), (2, ends("z"))]


async def test_one_that_fails_does_not_lose_the_others(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, engine_type=scripted(PARTLY)) as application:
        body = await answer(application, prompt=["p", "q", "r"])
        (record,) = application.records()
    found = [(choice["index"], choice["text"], choice["finish_reason"]) for choice in body["choices"]]
    assert found == [(0, "ax", "length"), (1, "b", "error"), (2, "cz", "length")]
    assert [choice.get("error", {}).get("message") for choice in body["choices"]] == [None, "the device is gone", None]
    assert body["usage"]["completion_tokens"] == 5
    assert (record.status, record.http_status, record.error_type) == (Status.ERROR, 200, "EngineError")
    assert (record.error_message, record.completion_tokens) == ("the device is gone", 5)


async def test_one_that_fails_does_not_end_the_stream_of_the_others(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, engine_type=scripted(PARTLY)) as application:
        exchange = await ask(application, prompt=["p", "q", "r"], stream=True)
        (record,) = application.records()
    *found, last, end = exchange.body.decode().split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    choices = [orjson.loads(frame.removeprefix("data: "))["choices"][0] for frame in found]
    texts = {index: "".join(choice["text"] for choice in choices if choice["index"] == index) for index in range(3)}
    assert texts == {0: "ax", 1: "b", 2: "cz"}
    assert [choice["index"] for choice in choices if choice.get("error")] == [1]
    assert (record.status, record.http_status) == (Status.ERROR, 200)


@pytest.mark.parametrize("stream", [False, True])
async def test_when_all_fail_so_does_the_request(stream: bool, tiny_served: Snapshot, tmp_path: Path) -> None:
    script: Script = [(0, fails("first")), (1, fails("second"))]
    async with Application(tiny_served, tmp_path, engine_type=scripted(script)) as application:
        exchange = await ask(application, prompt=["p", "q"], stream=stream)
        (record,) = application.records()
    if not stream:
        assert exchange.status == 500
        assert orjson.loads(exchange.body)["error"]["message"] == "second"
    assert b"[DONE]" not in exchange.body
    assert b'"message":"second"' in exchange.body
    assert (record.status, record.error_type) == (Status.ERROR, "EngineError")


def lists(choice: dict[str, Any]) -> list[tuple[str, float | None, int]]:
    logprobs = choice["logprobs"]
    assert [top is None for top in logprobs["top_logprobs"]] == [value is None for value in logprobs["token_logprobs"]]
    return list(zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["text_offset"], strict=True))


async def test_every_kind_of_prompt_is_repeated(tiny_served: Snapshot, tmp_path: Path) -> None:
    text = "aé€b<|end|>c"
    ids = [*"aé€b".encode(), 258, ord("c")]
    environ = {"TORCH_DTYPE": "float32"}
    async with Application(tiny_served, tmp_path, environ) as application:
        plain = await answer(application, prompt=text, max_tokens=3, logprobs=2)
        prompts: list[Any] = [text, ids, [text, "x"], [ids, [120]]]
        for prompt in prompts:
            body = await answer(application, prompt=prompt, max_tokens=3, echo=True, logprobs=2)
            choice = body["choices"][0]
            assert choice["text"] == text + plain["choices"][0]["text"]
            found = lists(choice)
            assert [offset for _, _, offset in found[:9]] == [0, 1, 1, 2, 2, 2, 3, 4, 11]
            assert [token for token, _, _ in found[:9]][-3:] == ["b", "<|end|>", "c"]
            assert found[0][1] is None
            assert all(logprob is not None and logprob <= 0 for _, logprob, _ in found[1:])
            generated = [(token, logprob, offset + len(text)) for token, logprob, offset in lists(plain["choices"][0])]
            assert found[9:] == [(token, pytest.approx(logprob), offset) for token, logprob, offset in generated]
        for n in (1, 2):
            body = await answer(application, prompt=[text, "x"], max_tokens=0, echo=True, n=n)
            assert [choice["text"] for choice in body["choices"]] == [text] * n + ["x"] * n
            assert all((choice["logprobs"], choice["finish_reason"]) == (None, "length") for choice in body["choices"])
            assert body["usage"]["completion_tokens"] == 0


async def test_what_is_scored_is_what_was_generated(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path, {"TORCH_DTYPE": "float32"}) as application:
        generated = await answer(application, prompt=[1, 2, 3], max_tokens=6, logprobs=1, logit_bias={"65": 100})
        scored = await answer(application, prompt=[1, 2, 3, *[65] * 6], max_tokens=0, logprobs=1, echo=True)
        streamed = await ask(application, prompt=[1, 2, 3, *[65] * 6], max_tokens=0, logprobs=1, echo=True, stream=True)
    expected = generated["choices"][0]["logprobs"]["token_logprobs"]
    assert scored["choices"][0]["logprobs"]["token_logprobs"][3:] == pytest.approx(expected)
    frame, end, done, _ = streamed.body.decode().split("\n\n")
    assert orjson.loads(frame.removeprefix("data: "))["choices"][0]["logprobs"] == scored["choices"][0]["logprobs"]
    assert (orjson.loads(end.removeprefix("data: "))["choices"][0]["finish_reason"], done) == ("length", "data: [DONE]")


async def test_the_log_probability_of_the_token_itself_is_always_there(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path) as application:
        for wanted, count in ((0, 1), (2, 3)):
            body = await answer(application, prompt="a", max_tokens=2, logprobs=wanted, logit_bias={"65": 100})
            logprobs = body["choices"][0]["logprobs"]
            for token, value, top in zip(
                logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
            ):
                assert len(top) == count
                assert top[token] == value


async def test_the_urgent_come_first_of_those_that_wait(tiny_served: Snapshot, tmp_path: Path) -> None:
    environ = {"MAX_BATCH_SIZE": "1", "TORCH_DTYPE": "float32"}
    async with Application(tiny_served, tmp_path, environ) as application:
        base = {"model": "llama", "prompt": "a", "ignore_eos": True}
        first = Exchange(application, PATH, base | {"max_tokens": 900, "stream": True})
        await first.sent(2)
        ended: list[int | None] = []
        waiting = []
        for number, priority in enumerate((5, None, -1, 5, 0)):
            waiting.append(Exchange(application, PATH, base | {"max_tokens": 2, "priority": priority}))
            waiting[-1].before_last = partial(ended.append, number)

            async def waits(count: int = number + 1) -> bool | None:
                return application.engine.stats.num_waiting == count or None

            await until(waits, "the request waits")
        first.leave()
        await first.done()
        for exchange in waiting:
            await exchange.done()
    assert ended == [2, 1, 4, 0, 3]
