"""What is no JSON, or says something twice: refused with what is wrong, and where."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.errors import InvalidRequestError
from handler.formats.chat import ChatFormat
from handler.formats.responses import ResponsesFormat
from handler.schema.codec import check_depth, decode_object

CHAT = b'{"model": "m", "messages": [{"role": "user", "content": %s}]%s}'


def refused(body: bytes) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        ChatFormat().decode(body)
    return caught.value


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "The body is empty"),
        (b" \r\n\t", "The body is empty"),
        (b"{", "not valid JSON"),
        (b'{"model": "m",}', "not valid JSON"),
        (b'{"model": "m", /* x */ "n": 1}', "not valid JSON"),
        (CHAT % (b'"a"', b"") + b" {}", "trailing characters"),
        (CHAT % (b'"a\nb"', b""), "invalid character"),
        (CHAT % (b'"a\0b"', b""), "invalid character"),
        (b"\xef\xbb\xbf" + CHAT % (b'"a"', b""), "byte order mark"),
        ((CHAT % (b'"a"', b"")).decode().encode("utf-16"), "UTF-16"),
        ((CHAT % (b'"a"', b"")).decode().encode("utf-16-be"), "UTF-16"),
        ((CHAT % (b'"a"', b"")).decode().encode("utf-32-le"), "UTF-16 or UTF-32"),
        (b"\xff", "it is not UTF-8: invalid start byte at byte 0"),
        (CHAT % (b'"a\xff"', b""), "it is not UTF-8: invalid start byte at byte 58"),
        (CHAT % (b'"\xed\xa0\x80"', b""), "it is not UTF-8"),
        (CHAT % (b'"\xc0\x80"', b""), "it is not UTF-8"),
        (b"NaN", "NaN is no JSON number"),
        (CHAT % (b'"a"', b', "temperature": NaN'), "NaN is no JSON number"),
        (CHAT % (b'"a"', b', "temperature": -Infinity'), "-Infinity is no JSON number"),
        (CHAT % (b'"a"', b', "max_tokens": 01'), "invalid number"),
    ],
)
def test_what_is_no_json_is_said_to_be_none(body: bytes, reason: str) -> None:
    error = refused(body)
    assert reason in str(error)
    assert error.param is None


@pytest.mark.parametrize("escape", [b"\\ud800", b"\\uD83D", b"a\\udc00 b", b"\\ud800\\u0041", b"\\ud83d\\ud83d\\ude00"])
def test_half_of_a_surrogate_pair_is_named(escape: bytes) -> None:
    error = refused(CHAT % (b'"%b"' % escape, b""))
    assert error.param == "messages[0].content"
    assert "surrogate" in str(error)


def test_half_of_a_surrogate_pair_in_a_name_is_named() -> None:
    error = refused(CHAT % (b'"a"', b', "metadata": {"\\ud800": "x"}'))
    assert error.param == "metadata.\\ud800"
    error.args[0].encode()


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"9" * 5000, b"1e" + b"9" * 50, b"2.1", b"1e1"])
@pytest.mark.parametrize("field", ["temperature", "top_p"])
def test_huge_numbers_name_their_field(field: str, number: bytes) -> None:
    error = refused(CHAT % (b'"a"', b', "%b": %b' % (field.encode(), number)))
    assert error.param == field
    assert len(str(error)) < 200


@pytest.mark.parametrize("number", [b"9" * 5000, b"1.0", b"1e0", b"-0", b"-1", b"0.5"])
def test_what_is_no_count_names_its_field(number: bytes) -> None:
    assert refused(CHAT % (b'"a"', b', "max_tokens": ' + number)).param == "max_tokens"


def test_numbers_have_several_spellings() -> None:
    decoder = ChatFormat()
    for spelling in (b"-0", b"0e400", b"0.0", b"0E-7", b"1e-400"):
        assert decoder.decode(CHAT % (b'"a"', b', "temperature": ' + spelling)).temperature == 0


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (CHAT % (b'"a"', b', "model": "m"'), "model"),
        (CHAT % (b'"a", "content": "b"', b""), "messages[0].content"),
        (CHAT % (b'"a"', b', "metadata": {"k": "1", "l": "2", "k": "1"}'), "metadata.k"),
        (CHAT % (b'"a:\\u003a\\\\u003a"', b', "logit_bias": {"1": 1, "\\u0031": 2}'), "logit_bias.1"),
        (CHAT % (b'"a"', b', "m\\u006fdel":"m"'), "model"),
    ],
)
def test_a_name_that_is_there_twice_is_refused(body: bytes, path: str) -> None:
    error = refused(body)
    assert error.param == path
    assert "twice" in str(error)


def test_all_endpoints_refuse_a_name_that_is_there_twice() -> None:
    for decode in (decode_object, ResponsesFormat().decode):
        with pytest.raises(InvalidRequestError, match="twice"):
            decode(b'{"model": "m", "input": "a", "input": "b"}')


MEMBERS = st.recursive(
    st.none() | st.text(), lambda inner: st.lists(inner) | st.lists(st.tuples(st.text(max_size=1), inner), max_size=4)
)


def is_object(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(member, tuple) for member in value)


def has_repetition(value: Any) -> bool:
    if is_object(value):
        names = [name for name, _ in value]
        return len(set(names)) < len(names) or any(has_repetition(member) for _, member in value)
    return isinstance(value, list) and any(has_repetition(item) for item in value)


def written(value: Any, *, ascii_only: bool) -> str:
    def text(plain: str) -> str:
        return json.dumps(plain, ensure_ascii=ascii_only).replace(":", "\\u003a" if ascii_only else ":")

    if is_object(value):
        parts = (f"{text(name)} : {written(member, ascii_only=ascii_only)}" for name, member in value)
        return "{" + ",".join(parts) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(item, ascii_only=ascii_only) for item in value) + "]"
    return "null" if value is None else text(value)


@given(MEMBERS, st.booleans())
def test_just_what_is_there_twice_is_refused(value: Any, ascii_only: bool) -> None:
    body = f'{{"": {written(value, ascii_only=ascii_only)}}}'.encode()
    if has_repetition(value):
        with pytest.raises(InvalidRequestError, match="twice"):
            decode_object(body)
    else:
        decode_object(body)


def test_a_large_body_is_refused_without_a_long_search() -> None:
    padding = b'"%b"' % (b"a" * 100_000)
    assert refused(CHAT % (padding, b', "model": "m"')).param is None
    assert "surrogate" in str(refused(CHAT % (padding, b', "user": "\\ud800 and more"')))


@pytest.mark.parametrize("depth", [251, 1000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_refused(depth: int, opening: bytes, closing: bytes) -> None:
    nested = opening * depth + b"1" + closing * depth
    error = refused(CHAT % (b'"a"', b', "chat_template_kwargs": {"a": {"b": {"c": {"d": %b}}}}' % nested))
    assert "nested too deeply" in str(error)
    with pytest.raises(InvalidRequestError, match=r"x is nested too deeply|x is not valid JSON"):
        check_depth((opening * (depth + 4) + b"1" + closing * (depth + 4)).decode(), "x")


def test_what_is_taken_can_be_written_again() -> None:
    nested = '{"a":' * 249 + "1" + "}" * 249
    request = ChatFormat().decode(CHAT % (b'"a"', b', "chat_template_kwargs": ' + nested.encode()))

    def written_below(frames: int) -> str:
        return written_below(frames - 1) if frames else json.dumps(request.chat_template_kwargs)

    assert written_below(150) == json.dumps(json.loads(nested))
    assert msgspec.json.encode(request.chat_template_kwargs)


def test_bad_input_of_all_megabytes_is_refused_quickly() -> None:
    for body in (b"[" * (4 << 20), b'{"a":' * (1 << 20), b'"' + b"\\u003a" * (700_000), b"{" + b'"a":1,' * 800_000):
        begin = time.process_time()
        refused(body)
        assert time.process_time() - begin < 2  # seconds; a defect here takes minutes
