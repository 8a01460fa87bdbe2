from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.conversation.call_parser import CallParser
from handler.conversation.output import (
    CallArguments,
    CallEnd,
    CallStart,
    OutputDelta,
    ParsedOutput,
    TextDelta,
    parse_whole,
)
from handler.engine.tool_syntax import ToolSyntax

NAMES = frozenset({"now", "get_weather"})

Outcome = tuple[str, list[tuple[str, str, bool]]]


def parser(syntax: ToolSyntax, **options: Any) -> CallParser:
    return CallParser(syntax, NAMES, **options)


def outcome(output: ParsedOutput) -> Outcome:
    """Content, and each call's name, arguments and completeness."""
    return output.content, [(call.name, call.arguments, call.is_complete) for call in output.calls]


def read(syntax: ToolSyntax, text: str) -> Outcome:
    return outcome(parse_whole(parser(syntax), text))


def read_pieces(syntax: ToolSyntax, pieces: list[str]) -> tuple[Outcome, list[OutputDelta]]:
    reader, output, deltas = parser(syntax), ParsedOutput(), []
    for piece in pieces:
        deltas += reader.push(piece)
    deltas += reader.finish()
    for delta in deltas:
        output.add(delta)
    return outcome(output), deltas


HERMES, LLAMA, MISTRAL = ToolSyntax.HERMES, ToolSyntax.LLAMA, ToolSyntax.MISTRAL_LIST
NAMED = ToolSyntax.MISTRAL_NAMED
PARIS = '{"city": "Paris"}'
NOW = ("now", "{}", True)
WEATHER = ("get_weather", PARIS, True)

CASES: dict[str, tuple[ToolSyntax, str, Outcome]] = {
    "hermes": (
        HERMES,
        f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>',
        ("", [WEATHER]),
    ),
    "hermes, several with text": (
        HERMES,
        f'I look.\n\n<tool_call>{{"name":"now","arguments":{{}}}}</tool_call>\n'
        f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>\n',
        ("I look.", [NOW, WEATHER]),
    ),
    "hermes, arguments first": (
        HERMES,
        f'<tool_call>\n{{ "arguments": {PARIS}, "name": "get_weather"}}\n</tool_call> ',
        ("", [WEATHER]),
    ),
    "hermes, no arguments": (HERMES, '<tool_call>{"name": "now"}</tool_call>', ("", [NOW])),
    "hermes, null arguments": (HERMES, '<tool_call>{"name": "now", "arguments": null}</tool_call>', ("", [NOW])),
    "hermes, text behind": (
        HERMES,
        '<tool_call>{"name": "now"}</tool_call>\nDone. ',
        ("\nDone. ", [NOW]),
    ),
    "hermes, an unknown function": (
        HERMES,
        'a <tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        ('a <tool_call>{"name": "rm", "arguments": {}}</tool_call>', []),
    ),
    "hermes, no JSON": (HERMES, "<tool_call>now()</tool_call>", ("<tool_call>now()</tool_call>", [])),
    "hermes, a call behind one that is none": (
        HERMES,
        '<tool_call>x <tool_call>{"name": "now"}</tool_call>',
        ("<tool_call>x", [NOW]),
    ),
    "hermes, arguments that are no JSON": (
        HERMES,
        '<tool_call>{"name": "get_weather", "arguments": {"city": Paris}}</tool_call>',
        ("", [("get_weather", '{"city": Paris}', True)]),
    ),
    "hermes, braces in strings": (
        HERMES,
        r'<tool_call>{"name": "get_weather", "arguments": {"city": "}]\"}\\"}}</tool_call>',
        ("", [("get_weather", r'{"city": "}]\"}\\"}', True)]),
    ),
    "hermes, something else behind the arguments": (
        HERMES,
        '<tool_call>{"name": "now", "arguments": {}, "why": 1}</tool_call>',
        (', "why": 1}</tool_call>', [NOW]),
    ),
    "hermes, a missing end": (
        HERMES,
        '<tool_call>{"name": "now"}\n<tool_call>{"name": "now"}',
        ("", [NOW, NOW]),
    ),
    "hermes, cut in the arguments": (
        HERMES,
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Pa',
        ("", [("get_weather", '{"city": "Pa', False)]),
    ),
    "hermes, cut before the name": (HERMES, 'a <tool_call>{"name": "no', ('a <tool_call>{"name": "no', [])),
    "hermes, cut in its end": (HERMES, '<tool_call>{"name": "now"}\n</tool', ("", [NOW])),
    "hermes, a partial marker": (HERMES, "1 <tool", ("1 <tool", [])),
    "hermes, a name in escapes": (HERMES, r'<tool_call>{"name": "\u006eow"}</tool_call>', ("", [NOW])),
    "hermes, an endless name": (HERMES, '<tool_call>{"' + "n" * 900, ('<tool_call>{"' + "n" * 900, [])),
    "white space alone": (HERMES, " \n\n", (" \n\n", [])),
    "nothing": (HERMES, "", ("", [])),
    "llama": (LLAMA, f'{{"name": "get_weather", "parameters": {PARIS}}}', ("", [WEATHER])),
    "llama, tagged": (LLAMA, '<|python_tag|>{"type": "function", "name": "now", "parameters": {}}', ("", [NOW])),
    "llama, several": (
        LLAMA,
        f'\n{{"name": "now", "parameters": {{}}}}; {{"name": "get_weather", "parameters": {PARIS}}}',
        ("", [NOW, WEATHER]),
    ),
    "llama, JSON that is no call": (LLAMA, '{"name": "Ada"}', ('{"name": "Ada"}', [])),
    "llama, a call within text": (LLAMA, 'So: {"name": "now"}', ('So: {"name": "now"}', [])),
    "llama, code": (LLAMA, "<|python_tag|>print(1)", ("<|python_tag|>print(1)", [])),
    "llama, tagged behind text": (LLAMA, 'So: <|python_tag|>{"name": "now"}', ("So:", [NOW])),
    "mistral": (
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "now", "arguments": {{}}, "id": "a1B2c3D4e"}}, '
        f'{{"name": "get_weather", "arguments": {PARIS}}}]',
        ("", [NOW, WEATHER]),
    ),
    "mistral, the second is unknown": (
        MISTRAL,
        'Hm[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "rm"}]',
        ('Hm, {"name": "rm"}]', [NOW]),
    ),
    "mistral, no list": (MISTRAL, "[TOOL_CALLS] I can't", ("[TOOL_CALLS] I can't", [])),
    "mistral, cut in the second": (
        MISTRAL,
        '[TOOL_CALLS][{"name": "now"}, {"name": "get_w',
        (', {"name": "get_w', [NOW]),
    ),
    "mistral, cut behind the first": (MISTRAL, '[TOOL_CALLS][{"name": "now", "arguments": {}}', ("", [NOW])),
    "named": (NAMED, f"[TOOL_CALLS]now[ARGS]{{}}[TOOL_CALLS]get_weather[ARGS]{PARIS}", ("", [NOW, WEATHER])),
    "named, with an id": (NAMED, f"Well.[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{PARIS}", ("Well.", [WEATHER])),
    "named, without a mark": (NAMED, f"[TOOL_CALLS]get_weather{PARIS}", ("", [WEATHER])),
    "named, another mark": (NAMED, "[TOOL_CALLS]now[INST]{}", ("[TOOL_CALLS]now[INST]{}", [])),
    "named, an unknown function": (NAMED, "[TOOL_CALLS]rm[ARGS]{}", ("[TOOL_CALLS]rm[ARGS]{}", [])),
}


@pytest.mark.parametrize("name", CASES)
def test_text_and_calls_are_told_apart(name: str) -> None:
    syntax, text, expected = CASES[name]
    assert read(syntax, text) == expected
    by_character, _ = read_pieces(syntax, list(text))
    assert by_character == expected


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


fragments = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<tool_",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "<|python_tag|>",
        '{"name": "now"',
        '{"name": "rm"',
        '"name": "get_weather"',
        '"arguments": {',
        '"parameters": {"a": "\\u00e9\\"}"',
        "{",
        "}",
        "[",
        "]",
        ", ",
        ": ",
        "\n",
        ";",
        '"',
        "\\",
        "now",
        "é🦀",
        "null",
    ]
)


@given(syntax=st.sampled_from(ToolSyntax), parts=st.lists(fragments, max_size=14), cuts=st.lists(st.integers(0, 400)))
def test_no_cut_of_the_text_changes_what_comes_out(syntax: ToolSyntax, parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    found, deltas = read_pieces(syntax, pieces_of(text, cuts))
    assert found == read(syntax, text)
    for delta in deltas:
        assert not isinstance(delta, TextDelta | CallArguments) or delta.text


@given(syntax=st.sampled_from(ToolSyntax), parts=st.lists(fragments, max_size=14))
def test_without_calls_nothing_is_lost(syntax: ToolSyntax, parts: list[str]) -> None:
    text = "".join(parts)
    content, calls = read(syntax, text)
    if not calls:
        assert content == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=6), children, max_size=3),
    max_leaves=6,
)


def write(syntax: ToolSyntax, calls: list[tuple[str, str]]) -> str:
    """As a model writes them."""
    if syntax is HERMES:
        return "\n".join(
            f'<tool_call>\n{{"name": "{name}", "arguments": {text}}}\n</tool_call>' for name, text in calls
        )
    if syntax is LLAMA:
        return "; ".join(f'{{"name": "{name}", "parameters": {text}}}' for name, text in calls)
    if syntax is MISTRAL:
        return "[TOOL_CALLS] [" + ", ".join(f'{{"name": "{name}", "arguments": {text}}}' for name, text in calls) + "]"
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{text}" for name, text in calls)


@given(
    syntax=st.sampled_from(ToolSyntax),
    calls=st.lists(
        st.tuples(st.sampled_from(sorted(NAMES)), st.dictionaries(st.text(max_size=6), json_values, max_size=3)),
        min_size=1,
        max_size=3,
    ),
    ascii_only=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=30),
)
def test_arguments_come_out_as_they_were_written(
    syntax: ToolSyntax, calls: list[tuple[str, dict[str, Any]]], ascii_only: bool, cuts: list[int]
) -> None:
    written = [(name, json.dumps(arguments, ensure_ascii=ascii_only)) for name, arguments in calls]
    (content, found), _ = read_pieces(syntax, pieces_of(write(syntax, written), cuts))
    assert content == ""
    assert found == [(name, arguments, True) for name, arguments in written]


def test_text_streams_and_a_marker_is_held_back_until_it_is_certain() -> None:
    reader = parser(HERMES)
    assert reader.push("Hello") == [TextDelta("Hello")]
    assert reader.push(" <") == []
    assert reader.push("b> ") == [TextDelta(" <b>")]
    assert reader.push("<tool_c") == []
    assert reader.push("at>") == [TextDelta(" <tool_cat>")]
    assert reader.push("\n<tool_call>") == []
    assert reader.finish() == [TextDelta("\n<tool_call>")]


def test_arguments_stream_as_soon_as_the_function_is_known() -> None:
    reader = parser(HERMES)
    assert reader.push('<tool_call>\n{"name": "get_weather"') == []
    assert reader.push(', "arguments": ') == []
    start, first = reader.push('{"ci')
    assert isinstance(start, CallStart)
    assert (start.index, start.name) == (0, "get_weather")
    assert start.id.startswith("call_")
    assert first == CallArguments(0, '{"ci')
    assert not reader.stops_for_calls
    assert reader.push('ty": "}') == [CallArguments(0, 'ty": "}')]
    assert reader.push('"}}\n</too') == [CallArguments(0, '"}'), CallEnd(0)]
    assert reader.push("l_call>\n") == []
    assert reader.finish() == []
    assert reader.stops_for_calls


def test_a_head_without_end_is_not_held_back_for_ever() -> None:
    reader = parser(HERMES)
    pieces = [reader.push(piece) for piece in ['<tool_call>{"', *["name"] * 300]]
    assert any(pieces)


def test_each_call_has_an_id_of_its_own() -> None:
    twice = write(HERMES, [("now", "{}"), ("now", "{}")])
    ids = {call.id for _ in range(2) for call in parse_whole(parser(HERMES), twice).calls}
    assert len(ids) == 4


def test_who_named_the_function_does_not_stop_for_calls() -> None:
    reader = parser(HERMES, reports_calls=False)
    reader.push(write(HERMES, [("now", "{}")]))
    assert not reader.stops_for_calls


def test_without_a_call_nobody_stops_for_calls() -> None:
    reader = parser(HERMES)
    reader.push("Hello")
    reader.finish()
    assert not reader.stops_for_calls


@pytest.mark.parametrize(
    "text", ["<tool_call>" * 3000, '<tool_call>{"arguments": {' + "[" * 60_000, "<tool_call" * 5000]
)
def test_a_model_that_repeats_itself_costs_no_more_than_its_text(text: str) -> None:
    started_s = time.process_time()
    found, _ = read_pieces(HERMES, [text[start : start + 4] for start in range(0, len(text), 4)])
    assert found == (text, [])
    assert time.process_time() - started_s < 5
