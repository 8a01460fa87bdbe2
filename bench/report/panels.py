"""What a page is made of: sections of panels, each a chart with the table of its figures. Pure data."""

from __future__ import annotations

from typing import Literal

import msgspec

from bench.report.numbers import NOTHING, Figure
from bench.report.plot import Plot
from bench.report.stacks import Stack

Tone = Literal["plain", "name", "text", "quoted", "good", "bad", "unsure"]
"""How a cell is set: plain figures, the name of a row, words, what others say, and three kinds of verdict."""


class TableCell(msgspec.Struct, frozen=True):
    """One cell: its text, and in small letters its interval or what else is to be known of it."""

    text: str
    small: str | None = None
    tone: Tone = "plain"


class Table(msgspec.Struct, frozen=True):
    """A table. The first cell of a row names the row.

    Attributes:
        caption: what it shows.
        head: titles of the columns.
        rows: cells, as many in each as there are titles.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]


class Panel(msgspec.Struct, frozen=True):
    """A chart, the same figures as a table, and what a reader has to know of both."""

    plot: Plot
    table: Table
    note: str | None = None


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Charts under one heading. No panels: not measured."""

    key: str
    title: str
    text: str
    panels: tuple[Panel, ...]
    is_small: bool = False

    @property
    def stacks(self) -> list[Stack]:
        """Those in its legend."""
        found: list[Stack] = []
        for panel in self.panels:
            found += [stack for stack in panel.plot.stacks if stack not in found]
        return found


def named(text: str) -> TableCell:
    """The first cell of a row."""
    return TableCell(text, tone="name")


def words(text: str) -> TableCell:
    """Words, not a figure."""
    return TableCell(text, tone="text")


def shown(figure: Figure) -> TableCell:
    """A figure and its interval."""
    return TableCell(figure.text, figure.interval)


def missing(reason: str | None) -> TableCell:
    """No figure, and why."""
    return TableCell(NOTHING, reason, "unsure" if reason else "plain")
