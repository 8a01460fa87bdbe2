"""What the spool holds for a request or a boot: a line of JSON, an object of facts or of columns, absent ones left out.

It is what PostgreSQL is sent, and nobody looks at it again on the way. Text that PostgreSQL cannot hold survives
visibly: each lone surrogate (no UTF-8 form) and each NUL (no `text` or `jsonb` form) becomes U+FFFD, the replacement
character. Knows no SQL and no asyncio. Any thread may call what is here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from handler.errors import SpoolError
from handler.requestlog.boot_record import BootRecord
from handler.requestlog.facts import Facts
from handler.requestlog.record import Record

REPLACEMENT = "\ufffd"
Entry = Facts | Record | BootRecord

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")

_encoder = msgspec.json.Encoder()
_facts_decoder = msgspec.json.Decoder(Facts)
_record_decoder = msgspec.json.Decoder(Record)
_boot_decoder = msgspec.json.Decoder(BootRecord)


def encode(entries: Sequence[Entry]) -> bytes:
    """A line for each, the line end included.

    Raises:
        SpoolError: `metadata` or `prompt` of one of them holds something that is not JSON.
    """
    try:
        lines = _encoder.encode_lines([*entries])  # of anything but a list msgspec 0.22 never gives up the iterator
        # Most lines have no backslash, which is found out faster than that they do not have these six bytes.
        if b"\\" not in lines or b"\\u0000" not in lines:
            return lines
    except (ValueError, TypeError, RecursionError):  # no UTF-8, or a number of thousands of digits
        pass
    return b"".join(map(_encode_visibly, entries))


def decode(line: bytes) -> Record | BootRecord:
    """The record of a line that `encode` made, by this version or another: what is unknown here is left out.

    Raises:
        SpoolError: it is not a record, nor the facts of one.
    """
    for decoder in (_record_decoder, _boot_decoder):
        try:
            return decoder.decode(line)
        except (msgspec.DecodeError, RecursionError):
            pass
    try:
        return _facts_decoder.decode(line).to_record()
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError) as error:  # facts that make no id, no time
        raise SpoolError(f"not a record: {error}") from error


def _encode_visibly(entry: Entry) -> bytes:
    """The line of an entry whose text may be no text for PostgreSQL."""
    try:
        return _encoder.encode(_visible(msgspec.to_builtins(entry))) + b"\n"
    except (ValueError, TypeError, RecursionError) as error:
        what = "a boot" if isinstance(entry, BootRecord) else f"request {entry.request_id}"
        raise SpoolError(f"record of {what} cannot be encoded: {error}") from error


def _visible(value: Any) -> Any:
    """`value` with what PostgreSQL cannot hold replaced in each string in it, keys included."""
    if isinstance(value, str):
        return _NOT_TEXT.sub(REPLACEMENT, value)
    if isinstance(value, dict):
        return {_visible(key): _visible(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_visible(item) for item in value]
    return value
