"""Rows of the request log and of the boots as tables on a terminal. Knows no database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from handler.boot import Phase
from handler.requestlog.boot_record import BootRecord
from handler.requestlog.record import Record, Status

_WIDTH_OF_A_PIPE = 240

_Column = tuple[str, int | None, int | None]
"""Title, width where it is known, else the share of what the others leave."""


class _Screen:
    """Rows under one header, also when they come one by one: widths depend on the terminal, not on the rows."""

    def __init__(self, columns: Sequence[_Column]) -> None:
        self._columns = columns
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDTH_OF_A_PIPE
        self._with_header = True

    def show(self, rows: Iterable[tuple[Sequence[str], bool]]) -> None:
        """Cells, and whether they tell of something that went well."""
        rows = [*rows]
        if not rows and not self._with_header:
            return
        table = Table(box=None, show_header=self._with_header, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
        for title, width, share in self._columns:
            table.add_column(title, width=width, ratio=share, overflow="fold")
        for cells, is_good in rows:
            table.add_row(*(Text(_printable(cell)) for cell in cells), style=None if is_good else "yellow")
        self._console.print(table)
        self._with_header = False


class RequestTable:
    """Requests."""

    def __init__(self) -> None:
        self._screen = _Screen(
            (
                ("created_at", 19, None),
                ("request_id", None, 36),
                ("endpoint", None, 20),
                ("model", None, 14),
                ("status", 9, None),
                ("http", 4, None),
                ("tokens in/out", None, 13),
                ("queue/ttft/duration ms", None, 22),
                ("error", None, 50),
            )
        )

    def show(self, records: Sequence[Record]) -> None:
        """More rows of the table."""
        self._screen.show((_cells(record), record.status is Status.SUCCESS) for record in records)


class BootTable:
    """Boots."""

    def __init__(self) -> None:
        self._screen = _Screen(
            (
                ("started_at", 19, None),
                ("instance_id", 12, None),
                ("model", None, 14),
                ("image", None, 20),
                ("devices", None, 10),
                ("weights", 7, None),
                ("ready s", 7, None),
                ("phases, s", None, 70),
                ("error", None, 30),
            )
        )

    def show(self, boots: Sequence[BootRecord]) -> None:
        """More rows of the table."""
        self._screen.show((_boot_cells(boot), boot.ready_s is not None) for boot in boots)


def _cells(record: Record) -> tuple[str, ...]:
    return (
        f"{record.created_at.astimezone():%Y-%m-%d %H:%M:%S}",
        record.request_id,
        record.endpoint,
        record.model_name or "-",
        str(record.status),
        _shown(record.http_status),
        f"{_shown(record.prompt_tokens)}/{_shown(record.completion_tokens)}",
        "/".join(map(_shown, (record.queue_ms, record.ttft_ms, record.duration_ms))),
        ": ".join(filter(None, (record.error_type, record.error_message))),
    )


def _boot_cells(boot: BootRecord) -> tuple[str, ...]:
    weights = {None: "-", True: "disk", False: "memory"}
    return (
        f"{boot.started_at.astimezone():%Y-%m-%d %H:%M:%S}",
        boot.instance_id,
        boot.model_name,
        boot.image or "-",
        ", ".join(boot.devices) or "-",
        weights[boot.is_cold],
        "-" if boot.ready_s is None else f"{boot.ready_s:.2f}",
        ", ".join(map(_phase, boot.phases)),
        boot.error or "",
    )


def _phase(phase: Phase) -> str:
    name = phase.name if phase.device is None else f"{phase.name} {phase.device}"
    return f"{name} unfinished" if phase.end_s is None else f"{name} {phase.end_s - phase.start_s:.2f}"


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"


def _printable(text: str) -> str:
    """`text` as one line without control characters: a client may have written it for the terminal's sake."""
    return "".join(char if char.isprintable() else " " for char in text)
