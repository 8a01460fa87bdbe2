"""docs/security.md against the tests that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "security.md"


def threats() -> list[list[str]]:
    """The cells of each row."""
    _, _, table = PAGE.read_text().partition("| threat | defence | test |\n|---|---|---|\n")
    table, _, _ = table.partition("\n\n")
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


@pytest.mark.parametrize("row", threats(), ids=lambda row: row[0])
def test_a_threat_has_a_defence_and_a_test_that_exists(row: list[str]) -> None:
    _, _, tests = row
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named
    for path, name in named:
        assert f"def {name}(" in (TESTS / path).read_text(), f"{path}::{name} does not exist"


def test_the_table_is_read() -> None:
    assert len(threats()) > 20
