from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.errors import SpoolError
from handler.requestlog.record import COLUMNS, Record, decode, encode, new_id, storable_json, storable_text
from tests.requestlog.records import full_record, make_record

any_text = st.text(st.characters(exclude_categories=()))  # with NUL and lone surrogates
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=10,
)


def test_a_record_survives_encoding_with_every_column():
    record = full_record()
    assert all(getattr(record, name) is not None for name in COLUMNS)
    assert decode(encode(record)) == record


def test_absence_stays_absence():
    decoded = decode(encode(make_record()))
    assert decoded.prompt_tokens is None
    assert decoded.ttft_ms is None
    assert decoded.stream is None


def test_ids_are_version_7_and_ordered():
    ids = [new_id() for _ in range(100)]
    assert {key.version for key in ids} == {7}
    assert ids == sorted(ids)


def test_lone_surrogates_become_replacement_characters_everywhere():
    bad = "a\ud800b"
    record = make_record(error_message=bad, metadata={bad: [bad, {"x": bad}]}, prompt=[bad], completion=bad)
    decoded = decode(encode(record))
    good = "a\ufffdb"
    assert decoded.error_message == decoded.completion == good
    assert decoded.metadata == {good: [good, {"x": good}]}
    assert decoded.prompt == [good]


def test_integers_beyond_64_bits_become_strings():
    decoded = decode(encode(make_record(metadata={"big": 1 << 70, "small": -(1 << 63)}, status="timeout")))
    assert decoded.metadata == {"big": str(1 << 70), "small": -(1 << 63)}


def test_what_is_not_json_is_refused_by_name():
    record = make_record(metadata={"x": object()})
    with pytest.raises(SpoolError, match=str(record.id)):
        encode(record)


def test_bytes_that_are_no_record_are_refused():
    for payload in (b"", b"\xc1", msgspec.msgpack.encode({"id": 1}), encode(make_record())[:-1]):
        with pytest.raises(SpoolError):
            decode(payload)


def test_a_record_of_a_version_with_other_columns_can_be_read():
    fields = msgspec.msgpack.decode(encode(make_record(3)))
    assert decode(msgspec.msgpack.encode(fields | {"column_of_tomorrow": 1})).request_id == "req-3"


def test_nul_is_replaced_in_text_and_json():
    assert storable_text("a\0b") == "a\ufffdb"
    assert json.loads(storable_json({"k\0": ["\0", "\\u0000", 1]})) == {"k\ufffd": ["\ufffd", "\\u0000", 1]}


@given(any_text, json_values)
def test_whatever_a_client_sends_can_be_kept(text: str, value: object):
    record = make_record(error_message=text, metadata={"value": value}, prompt=value)
    decoded = decode(encode(record))
    assert len(decoded.error_message or "") == len(text)
    assert "\0" not in storable_text(decoded.error_message or "")
    assert "\\u0000" not in storable_json(decoded.prompt).replace("\\\\", "")


def test_the_columns_are_those_of_the_design():
    design = (
        "id request_id created_at endpoint model_name api_key_id stream status http_status"
        " finish_reason error_type error_message prompt_tokens cached_tokens completion_tokens total_tokens"
        " queue_ms ttft_ms duration_ms cold_start instance_id metadata"
    )
    assert set(COLUMNS) - {"prompt", "completion"} == set(design.split())
    assert Record.__struct_config__.frozen
