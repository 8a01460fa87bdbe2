"""Streams byte for byte: the frames of a chat and of a text completion, with ids and times left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from handler.engine.events import FinishReason, TokenEvent
from handler.engine.snapshot import Snapshot
from tests.asgi import Application, Exchange
from tests.scripted import Script, ends, fails, likely, says, scripted

CHAT = '{"id":"ID","object":"chat.completion.chunk","created":0,"model":"llama","system_fingerprint":"FP"'
TEXT = '{"id":"ID","object":"text_completion","created":0,"model":"llama","system_fingerprint":"FP"'
ROLE = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
DONE = "[DONE]"
ERROR = '"error":{"message":"the device is gone","type":"server_error","param":null,"code":null}'


def chat(*choices: str, tail: str = "", head: str = CHAT) -> list[str]:
    """A frame for each choice, given as its members behind the index, which comes first."""
    return [f'{head},"choices":[{{"index":{choice}}}]{tail}}}' for choice in choices]


def text(*choices: str, tail: str = "") -> list[str]:
    return chat(*choices, tail=tail, head=TEXT)


def usage(prompt: int, completion: int) -> str:
    details = '{"cached_tokens":0,"audio_tokens":0}'
    written = '{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}'
    return (
        f'"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{prompt + completion},'
        f'"prompt_tokens_details":{details},"completion_tokens_details":{written}}}'
    )


def _has_middle(script: Script) -> bool:
    """Whether there is text between a sequence's first event and its last one."""
    sequences: dict[int, list[TokenEvent]] = {}
    for number, event in script:
        sequences.setdefault(number, []).append(event)
    return any(event.text for events in sequences.values() for event in events[1:-1])


async def frames(snapshot: Snapshot, directory: Path, path: str, script: Script, **fields: Any) -> list[str]:
    """The data of every event, in order; the same whether the server pushes what it can or waits for every event."""
    waited, pushed = [
        await _frames(snapshot, directory / name, path, script, fields, pushes=name == "pushed")
        for name in ("waited", "pushed")
    ]
    assert waited == pushed
    return pushed


async def _frames(
    snapshot: Snapshot, directory: Path, path: str, script: Script, fields: dict[str, Any], *, pushes: bool
) -> list[str]:
    asking = {"messages": [{"role": "user", "content": "hi"}]} if path.startswith("/v1/chat") else {"prompt": "hi"}
    body = {"model": "llama", "stream": True, **asking, **fields}
    async with Application(snapshot, directory, engine_type=scripted(script)) as application:
        exchange = Exchange(application, path, body, pushes=pushes)
        await exchange.done()
        assert exchange.status == 200
        assert exchange.is_complete
        assert bool(exchange.num_pushed) == (pushes and _has_middle(script))
        *found, rest = exchange.body.decode().split("\n\n")
    assert rest == ""
    assert all(frame.startswith("data: ") for frame in found)
    patterns = (
        (r'"id":"(chatcmpl|cmpl)-[0-9a-f-]+"', '"id":"ID"'),
        (r'"id":"call_[0-9a-f]{24}"', '"id":"CALL"'),
        (r'"created":\d+', '"created":0'),
        (r'"fp_[0-9a-f]{10}"', '"FP"'),
    )
    normal = [frame.removeprefix("data: ") for frame in found]
    for pattern, replacement in patterns:
        normal = [re.sub(pattern, replacement, frame) for frame in normal]
    return normal


HELLO: Script = [(0, says("Hé")), (0, says("")), (0, says("l")), (0, ends("lo"))]


def content(piece: str, index: int = 0) -> str:
    return f'{index},"delta":{{"content":"{piece}"}},"logprobs":null,"finish_reason":null'


def finish(reason: str, index: int = 0, extra: str = "") -> str:
    return f'{index},"delta":{{}},"logprobs":null,"finish_reason":"{reason}"{extra}'


async def test_a_chat_begins_with_its_role_and_has_no_empty_delta(tiny_served: Snapshot, tmp_path: Path) -> None:
    assert await frames(tiny_served, tmp_path, "/v1/chat/completions", HELLO) == [
        *chat(f"0,{ROLE}", content("Hé"), content("l"), content("lo"), finish("length")),
        DONE,
    ]


async def test_usage_stands_in_every_frame_and_alone_in_the_last_one(tiny_served: Snapshot, tmp_path: Path) -> None:
    asked = {"stream_options": {"include_usage": True, "include_obfuscation": False}, "service_tier": "auto"}
    head = f'{CHAT},"service_tier":"default"'
    pieces = (f"0,{ROLE}", content("Hé"), content("l"), content("lo"), finish("length"))
    assert await frames(tiny_served, tmp_path, "/v1/chat/completions", HELLO, **asked) == [
        *chat(*pieces, tail=',"usage":null', head=head),
        f'{head},"choices":[],{usage(3, 7)}}}',
        DONE,
    ]


async def test_two_choices_take_turns(tiny_served: Snapshot, tmp_path: Path) -> None:
    script: Script = [
        (0, says("a")),
        (1, says("b")),
        (0, says("c")),
        (1, ends(reason=FinishReason.STOP, stop_reason="END")),
        (0, ends("d", FinishReason.STOP, stop_reason=7)),
    ]
    assert await frames(tiny_served, tmp_path, "/v1/chat/completions", script, n=2) == [
        *chat(f"0,{ROLE}", f"1,{ROLE}", content("a"), content("b", 1), content("c")),
        *chat(finish("stop", 1, ',"stop_reason":"END"'), content("d"), finish("stop", 0, ',"stop_reason":7')),
        DONE,
    ]


async def test_log_probabilities_come_with_their_text_or_with_the_end(tiny_served: Snapshot, tmp_path: Path) -> None:
    script: Script = [
        (0, says("", logprobs=(likely("a", -0.5, ("b", -0.25)),))),
        (0, says("ab", logprobs=(likely("b", -1.5, ("b", -1.5)),))),
        (0, ends(reason=FinishReason.STOP, logprobs=(likely("c", -2.0, ("c", -2.0)),))),
    ]

    def entry(token: str, logprob: str, top: str, top_logprob: str) -> str:
        def one(name: str, value: str) -> str:
            return f'"token":"{name}","logprob":{value},"bytes":[{ord(name)}]'

        return f'{{{one(token, logprob)},"top_logprobs":[{{{one(top, top_logprob)}}}]}}'

    both = f'{{"content":[{entry("a", "-0.5", "b", "-0.25")},{entry("b", "-1.5", "b", "-1.5")}]}}'
    last = f'{{"content":[{entry("c", "-2.0", "c", "-2.0")}]}}'
    asked = {"logprobs": True, "top_logprobs": 1}
    assert await frames(tiny_served, tmp_path, "/v1/chat/completions", script, **asked) == [
        *chat(f"0,{ROLE}", f'0,"delta":{{"content":"ab"}},"logprobs":{both},"finish_reason":null'),
        *chat(f'0,"delta":{{}},"logprobs":{last},"finish_reason":"stop"'),
        DONE,
    ]


async def test_calls_come_one_after_the_other_behind_a_text(tiny_served: Snapshot, tmp_path: Path) -> None:
    script: Script = [
        (0, says("Let me look. <tool")),
        (0, says('_call>\n{"name": "now", "argu')),
        (0, says('ments": {"zone": "U')),
        (0, says('TC"}}\n</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}')),
        (0, ends("\n</tool_call>", FinishReason.STOP)),
    ]
    tool = {"type": "function", "function": {"name": "now"}}

    def call(members: str) -> str:
        return f'0,"delta":{{"tool_calls":[{{{members}}}]}},"logprobs":null,"finish_reason":null'

    def begins(index: int) -> str:
        return call(f'"index":{index},"function":{{"arguments":"","name":"now"}},"id":"CALL","type":"function"')

    def goes_on(index: int, arguments: str) -> str:
        return call(f'"index":{index},"function":{{"arguments":"{arguments}"}}')

    role = '0,"delta":{"role":"assistant","content":null},"logprobs":null,"finish_reason":null'
    assert await frames(tiny_served, tmp_path, "/v1/chat/completions", script, tools=[tool]) == [
        *chat(role, content("Let me look.")),
        *chat(begins(0), goes_on(0, r"{\"zone\": \"U"), goes_on(0, r"TC\"}")),
        *chat(begins(1), goes_on(1, "{}"), finish("tool_calls")),
        DONE,
    ]


async def test_an_error_ends_the_stream_and_nothing_is_done(tiny_served: Snapshot, tmp_path: Path) -> None:
    script: Script = [(0, says("a")), (0, fails())]
    assert await frames(tiny_served, tmp_path, "/v1/chat/completions", script) == [
        *chat(f"0,{ROLE}", content("a")),
        f"{{{ERROR}}}",
    ]


async def test_an_error_ends_the_stream_of_a_text_as_well(tiny_served: Snapshot, tmp_path: Path) -> None:
    script: Script = [(0, says("a")), (0, fails())]
    assert await frames(tiny_served, tmp_path, "/v1/completions", script) == [
        *text('0,"text":"a","logprobs":null,"finish_reason":null'),
        f"{{{ERROR}}}",
    ]


async def test_an_error_of_one_choice_ends_that_choice(tiny_served: Snapshot, tmp_path: Path) -> None:
    script: Script = [(0, says("a")), (1, says("b")), (0, fails()), (1, ends("c"))]
    assert await frames(tiny_served, tmp_path, "/v1/chat/completions", script, n=2) == [
        *chat(f"0,{ROLE}", f"1,{ROLE}", content("a"), content("b", 1), finish("error", 0, f",{ERROR}")),
        *chat(content("c", 1), finish("length", 1)),
        DONE,
    ]


async def test_a_text_begins_with_text(tiny_served: Snapshot, tmp_path: Path) -> None:
    null = '"logprobs":null,"finish_reason":null'
    asked = {"stream_options": {"include_usage": True}}
    pieces = [f'0,"text":"{piece}",{null}' for piece in ("Hé", "l", "lo")]
    assert await frames(tiny_served, tmp_path, "/v1/completions", HELLO, **asked) == [
        *text(*pieces, '0,"text":"","logprobs":null,"finish_reason":"length"', tail=',"usage":null'),
        f'{TEXT},"choices":[],{usage(2, 7)}}}',
        DONE,
    ]


async def test_an_echo_comes_before_each_choice_with_the_prompts_log_probabilities(
    tiny_served: Snapshot, tmp_path: Path
) -> None:
    prompt = (likely("i", -0.5, ("i", -0.5)),)
    script: Script = [
        (0, ends("a", prompt_logprobs=prompt, logprobs=(likely("a", -2.0, ("b", -1.0)),))),
        (1, ends("a", prompt_logprobs=prompt, logprobs=(likely("a", -2.0, ("b", -1.0)),))),
    ]
    before = '{"tokens":["h","i"],"token_logprobs":[null,-0.5],"top_logprobs":[null,{"i":-0.5}],"text_offset":[0,1]}'
    after = '{"tokens":["a"],"token_logprobs":[-2.0],"top_logprobs":[{"b":-1.0,"a":-2.0}],"text_offset":[2]}'
    expected = [
        frame
        for index in (0, 1)
        for frame in text(
            f'{index},"text":"hi","logprobs":{before},"finish_reason":null',
            f'{index},"text":"a","logprobs":{after},"finish_reason":null',
            f'{index},"text":"","logprobs":null,"finish_reason":"length"',
        )
    ]
    asked = {"echo": True, "logprobs": 1, "n": 2}
    assert await frames(tiny_served, tmp_path, "/v1/completions", script, **asked) == [*expected, DONE]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_no_frame_has_usage_that_was_not_asked_for(path: str, tiny_served: Snapshot, tmp_path: Path) -> None:
    for options in (None, {}, {"include_usage": False}):
        found = await frames(tiny_served, tmp_path / str(options), path, HELLO, stream_options=options)
        assert not any("usage" in frame for frame in found)
