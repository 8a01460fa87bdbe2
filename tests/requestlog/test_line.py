from __future__ import annotations

import gc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.errors import SpoolError
from handler.requestlog.boot_record import KIND
from handler.requestlog.line import REPLACEMENT, decode, encode
from handler.requestlog.record import COLUMNS, Record
from tests.requestlog.records import full_record, make_boot, make_record

any_text = st.text(st.characters(exclude_categories=()))  # with NUL and lone surrogates
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=10,
)


def through_the_spool(record: Record) -> Record:
    return decode(encode([record]))


def test_a_record_survives_encoding_with_every_column():
    record = full_record()
    assert all(getattr(record, name) is not None for name in COLUMNS)
    assert through_the_spool(record) == record


def test_records_are_lines_in_their_order():
    records = [make_record(1), full_record(), make_record(2, error_message="two\nlines\r\n")]
    assert [decode(line) for line in encode(records).split(b"\n")[:-1]] == records


def test_absence_stays_absence():
    decoded = through_the_spool(make_record())
    assert decoded.prompt_tokens is None
    assert decoded.ttft_ms is None
    assert decoded.stream is None


@pytest.mark.parametrize("bad", ["a\ud800b", "a\0b"])
def test_what_is_no_text_for_postgres_becomes_replacement_characters_everywhere(bad: str):
    record = make_record(error_message=bad, metadata={bad: [bad, {"x": bad}]}, prompt=[bad], completion=bad)
    decoded = through_the_spool(record)
    good = "a\ufffdb"
    assert decoded.error_message == decoded.completion == good
    assert decoded.metadata == {good: [good, {"x": good}]}
    assert decoded.prompt == [good]


def test_one_record_with_such_text_leaves_the_others_as_they_are():
    records = [full_record(), make_record(completion="\0", status="timeout"), full_record()]
    decoded = [decode(line) for line in encode(records).splitlines()]
    assert [decoded[0], decoded[2]] == [records[0], records[2]]
    assert (decoded[1].completion, decoded[1].status) == (REPLACEMENT, "timeout")


def test_a_backslash_is_no_nul():
    record = make_record(metadata={"\\u0000": "\\u0000 \\"}, completion="\\0\\")
    assert through_the_spool(record) == record


def test_integers_beyond_64_bits_stay_what_they_are():
    assert through_the_spool(make_record(metadata={"big": 1 << 70})).metadata == {"big": 1 << 70}


def test_what_is_not_json_is_refused_by_name():
    record = make_record(7, metadata={"x": object()})
    with pytest.raises(SpoolError, match=record.request_id):
        encode([make_record(), record])


def test_bytes_that_are_no_record_are_refused():
    for line in (b"", b"\xc1", b"[]", b'{"id":1}', encode([make_record()])[:-2]):
        with pytest.raises(SpoolError):
            decode(line)


@pytest.mark.parametrize("changed", [{"salt": "no digits"}, {"created_s": 1e300}, {"created_s": -1e15}])
def test_facts_that_make_no_id_or_no_time_are_refused(changed: dict[str, object]):
    facts = {"request_id": "a", "endpoint": "/x", "salt": "0" * 15, "created_s": 1e9, "start_s": 1.0}
    assert decode(msgspec.json.encode(facts)).request_id == "a"
    with pytest.raises(SpoolError, match="not a record"):
        decode(msgspec.json.encode(facts | changed))


def test_a_record_of_a_version_with_other_columns_can_be_read():
    fields = msgspec.json.decode(encode([make_record(3)]))
    assert decode(msgspec.json.encode(fields | {"column_of_tomorrow": 1})).request_id == "req-3"


@given(any_text, json_values)
def test_whatever_a_client_sends_can_be_kept(text: str, value: object):
    record = make_record(error_message=text, metadata={"value": value}, prompt=value)
    line = encode([record])
    assert line.count(b"\n") == 1
    decoded = decode(line)
    assert len(decoded.error_message or "") == len(text)
    assert "\0" not in (decoded.error_message or "")
    assert "\0" not in repr(decoded.prompt)
    assert b"\\u0000" not in line.replace(b"\\\\", b"")


def test_nothing_is_left_behind_by_encoding():
    entries = (make_record(1), make_record(2))
    encode(entries)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(500):
        encode(entries)
    gc.collect()
    assert len(gc.get_objects()) < before + 100


def test_a_number_that_has_no_text_is_refused_by_name():
    record = msgspec.structs.replace(make_record(1), prompt={"n": 10**5000})
    with pytest.raises(SpoolError, match=f"record of request {record.request_id} cannot be encoded"):
        encode([record])


def test_a_boot_is_a_line_like_any_other():
    boot = make_boot(error="a\0b", image="\ud800")
    record, again = (decode(line) for line in encode([make_record(1), boot]).splitlines())
    assert record.request_id == "req-1"
    assert again == msgspec.structs.replace(boot, error="a\ufffdb", image="\ufffd")
    assert KIND in encode([boot])
    assert KIND not in encode([full_record()])
