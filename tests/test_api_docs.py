"""docs/api.md against the wire types and the tests that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect

from handler.contract import ENDPOINTS

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "api.md"
ROW = re.compile(r"\| `(?P<field>\w+)` \| (?P<status>[^|]+) \| `(?P<test>[^`|]+)` \|")


def structs(*kinds: msgspec.inspect.Type) -> set[type[msgspec.Struct]]:
    """Every struct that the types are made of; one may be made of itself."""
    found: set[type[msgspec.Struct]] = set()
    pending = list(kinds)
    while pending:
        kind = pending.pop()
        if isinstance(kind, msgspec.inspect.StructType):
            if kind.cls not in found:
                found.add(kind.cls)
                pending += [field.type for field in kind.fields]
            continue
        for name in ("types", "item_types"):
            pending += getattr(kind, name, ())
        for name in ("type", "item_type", "key_type", "value_type"):
            part = getattr(kind, name, None)
            if isinstance(part, msgspec.inspect.Type):
                pending.append(part)
    return found


def request_fields() -> set[tuple[str, str]]:
    """(type, field) of all requests, and of what they are made of."""
    requests = {request for endpoint in ENDPOINTS for request in endpoint.requests}
    kinds = structs(*msgspec.inspect.multi_type_info(requests))
    return {(kind.__name__, name) for kind in kinds for name in (*kind.__struct_encode_fields__, *tag(kind))}


def tag(kind: type[msgspec.Struct]) -> list[str]:
    field = kind.__struct_config__.tag_field
    return [] if field is None else [field]


def rows() -> dict[tuple[str, str], tuple[str, str]]:
    """Status and test by type and field; the heading above a table says which types it speaks of."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    kinds: list[str] = []
    known = {kind for kind, _ in request_fields()}
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            kinds = re.findall(r"`(\w+)`", line)
        elif kinds and (match := ROW.fullmatch(line)):
            described = [kind for kind in kinds if kind not in known or (kind, match["field"]) in request_fields()]
            assert described, f"docs/api.md: none of {kinds} has a field {match['field']!r}"
            for kind in described:
                assert (kind, match["field"]) not in found, f"docs/api.md says {kind}.{match['field']} twice"
                found[kind, match["field"]] = (match["status"], match["test"])
    return found


def test_every_field_of_every_request_has_its_row() -> None:
    described = set(rows())
    missing = sorted(request_fields() - described)
    lines = "\n".join(f"### `{kind}`: | `{field}` | works | `test_x.py::test_y` |" for kind, field in missing)
    assert not missing, f"docs/api.md lacks rows, each below a heading that names its type:\n{lines}"
    stale = sorted(described - request_fields())
    assert not stale, f"docs/api.md has rows for fields that are gone: {stale}"


def test_every_row_says_whether_the_field_works() -> None:
    for key, (status, _) in rows().items():
        assert re.match(r"(works|accepted|refused)\b", status), (key, status)


def test_every_test_named_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)", PAGE.read_text())
    assert {test for _, test in rows().values()} <= {f"{path}::{name}" for path, name in named}
    sources: dict[str, str] = {}
    for path, name in named:
        source = sources.setdefault(path, (TESTS / path).read_text())
        assert f"def {name}(" in source, f"docs/api.md names {path}::{name}, which does not exist"


def test_every_endpoint_stands_there() -> None:
    page = PAGE.read_text()
    for endpoint in ENDPOINTS:
        assert f"`{endpoint.path}`" in page, endpoint.path


def test_a_struct_is_found_wherever_it_hides() -> None:
    class Inner(msgspec.Struct):
        """Of the test alone."""

    outer: Any = msgspec.defstruct("Outer", [("field", dict[str, list[Inner | int] | None])])
    assert structs(msgspec.inspect.type_info(outer)) == {outer, Inner}
