"""`pilotlight logs`: the request log on a terminal, or as JSON lines for a program.

Knows no SQL. Exit codes: 0 when the rows were shown (none is a good answer, too) and when Ctrl-C ends
`--follow`; 1 when the database cannot be reached or read, with one line on stderr; a configuration that
cannot work raises. With the embedded PostgreSQL the command uses the server that a running function has
started, or starts it for itself; it stops when nobody is left. What still waits in a spool is not shown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence

import asyncpg
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from handler.errors import ConfigurationError
from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.failure import describe_failure
from handler.requestlog.reader import LogFollower, read_logs
from handler.requestlog.record import Record, Status
from handler.settings import Settings

POLL_S = 0.5
CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 30.0
_WIDTH_OF_A_PIPE = 240

Show = Callable[[Sequence[Record]], None]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `logs` command."""
    parser = subparsers.add_parser("logs", help="show the newest requests", description="Show the request log.")
    parser.add_argument("--last", type=_count, default=20, metavar="N", help="how many (default: 20)")
    parser.add_argument("--follow", action="store_true", help="go on with new requests until Ctrl-C")
    parser.add_argument("--status", choices=[str(status) for status in Status], help="only those that ended so")
    parser.add_argument("--json", action="store_true", help="one JSON object with all columns per line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Show what `args` asks for, and return the exit code.

    Raises:
        ConfigurationError: there is no database, or it cannot be started.
    """
    if settings.database_url == "none":
        raise ConfigurationError("DATABASE_URL", "is 'none': requests are kept in the spool, there is no log to show")
    embedded = EmbeddedPostgres(settings.pilotlight_home) if settings.database_url is None else None
    url = settings.database_url
    try:
        url = embedded.start() if embedded else url
        asyncio.run(_show(url, args, _show_json if args.json else _TableOnScreen().show))
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # the reader of our output, `head` for example, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        print(f"pilotlight logs: {describe_failure(error, url)}", file=sys.stderr)  # noqa: T201 - a command's output
        return 1
    finally:
        if embedded:
            embedded.stop()
    return 0


async def _show(url: str | None, args: argparse.Namespace, show: Show) -> None:
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=STATEMENT_TIMEOUT_S,
        statement_cache_size=0,
        server_settings={"application_name": "pilotlight logs"},
    )
    status = Status(args.status) if args.status else None
    try:
        if not args.follow:
            show(await read_logs(connection, args.last, status))
            return
        follower = LogFollower(connection, status)
        show(await follower.begin(args.last))
        while True:
            await asyncio.sleep(POLL_S)
            if records := await follower.poll():
                show(records)
    finally:
        connection.terminate()


def _show_json(records: Sequence[Record]) -> None:
    for record in records:
        sys.stdout.buffer.write(msgspec.json.encode(msgspec.structs.asdict(record)) + b"\n")
    sys.stdout.buffer.flush()


class _TableOnScreen:
    """Rows under one header, also when they come one by one: widths depend on the terminal, not on the rows."""

    # Title, width where it is known, else the share of what the others leave.
    _COLUMNS: tuple[tuple[str, int | None, int | None], ...] = (
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

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDTH_OF_A_PIPE
        self._with_header = True

    def show(self, records: Sequence[Record]) -> None:
        if not records and not self._with_header:
            return
        table = Table(box=None, show_header=self._with_header, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
        for title, width, share in self._COLUMNS:
            table.add_column(title, width=width, ratio=share, overflow="fold")
        for record in records:
            table.add_row(*_cells(record), style=None if record.status is Status.SUCCESS else "yellow")
        self._console.print(table)
        self._with_header = False


def _cells(record: Record) -> list[Text]:
    error = ": ".join(filter(None, (record.error_type, record.error_message)))
    cells = (
        f"{record.created_at.astimezone():%Y-%m-%d %H:%M:%S}",
        record.request_id,
        record.endpoint,
        record.model_name or "-",
        str(record.status),
        _shown(record.http_status),
        f"{_shown(record.prompt_tokens)}/{_shown(record.completion_tokens)}",
        "/".join(map(_shown, (record.queue_ms, record.ttft_ms, record.duration_ms))),
        error,
    )
    return [Text(_printable(cell)) for cell in cells]


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"


def _printable(text: str) -> str:
    """`text` as one line without control characters: a client may have written it for the terminal's sake."""
    return "".join(char if char.isprintable() else " " for char in text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be a whole number, 0 or more")
    return int(text)
