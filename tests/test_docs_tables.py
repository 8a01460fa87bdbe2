"""docs/security.md and docs/reliability.md against the tests that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGES = {"security.md": "| threat | defence | test |", "reliability.md": "| fault | what happens | test |"}


def rows(page: str) -> list[list[str]]:
    """The cells of each row of a page's table."""
    _, _, table = (TESTS.parent / "docs" / page).read_text().partition(f"{PAGES[page]}\n|---|---|---|\n")
    table, _, _ = table.partition("\n\n")
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


@pytest.mark.parametrize("row", [row for page in PAGES for row in rows(page)], ids=lambda row: row[0])
def test_a_row_names_a_test_that_exists(row: list[str]) -> None:
    _, _, tests = row
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named
    for path, name in named:
        assert f"def {name}(" in (TESTS / path).read_text(), f"{path}::{name} does not exist"


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_read(page: str) -> None:
    assert len(rows(page)) > 12
