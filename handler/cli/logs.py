"""`pilotlight logs`: the request log, or the boots, on a terminal or as JSON lines for a program.

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
from typing import TypeVar

import asyncpg
import msgspec

from handler.cli.log_tables import BootTable, RequestTable
from handler.errors import ConfigurationError
from handler.requestlog.boot_record import BootRecord
from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.failure import describe_failure
from handler.requestlog.reader import LogFollower, read_boots, read_logs
from handler.requestlog.record import Record, Status
from handler.settings import Settings

POLL_S = 0.5
CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 30.0

Row = TypeVar("Row", Record, BootRecord)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `logs` command."""
    parser = subparsers.add_parser(
        "logs", help="show the newest requests, or boots", description="Show the request log, or how instances started."
    )
    parser.add_argument("--last", type=_count, default=20, metavar="N", help="how many (default: 20)")
    parser.add_argument("--boots", action="store_true", help="how instances started, in place of requests")
    parser.add_argument("--follow", action="store_true", help="go on with new requests until Ctrl-C")
    parser.add_argument("--status", choices=[str(status) for status in Status], help="only those that ended so")
    parser.add_argument("--json", action="store_true", help="one JSON object with all columns per line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Show what `args` asks for, and return the exit code.

    Raises:
        ConfigurationError: there is no database, or it cannot be started.
    """
    if args.boots and (args.follow or args.status):
        raise ConfigurationError("logs --boots", "shows the newest boots; --follow and --status are of requests")
    if settings.database_url == "none":
        raise ConfigurationError("DATABASE_URL", "is 'none': requests are kept in the spool, there is no log to show")
    embedded = EmbeddedPostgres(settings.pilotlight_home) if settings.database_url is None else None
    url = settings.database_url
    try:
        url = embedded.start() if embedded else url
        asyncio.run(_show(url, args))
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


async def _show(url: str | None, args: argparse.Namespace) -> None:
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=STATEMENT_TIMEOUT_S,
        statement_cache_size=0,
        server_settings={"application_name": "pilotlight logs"},
    )
    try:
        if args.boots:
            boots = await read_boots(connection, args.last)
            _show_json(boots) if args.json else BootTable().show(boots)
        else:
            await _show_requests(connection, args, _show_json if args.json else RequestTable().show)
    finally:
        connection.terminate()


async def _show_requests(
    connection: asyncpg.Connection[asyncpg.Record],
    args: argparse.Namespace,
    show: Callable[[Sequence[Record]], None],
) -> None:
    status = Status(args.status) if args.status else None
    if not args.follow:
        show(await read_logs(connection, args.last, status))
        return
    follower = LogFollower(connection, status)
    show(await follower.begin(args.last))
    while True:
        await asyncio.sleep(POLL_S)
        if records := await follower.poll():
            show(records)


def _show_json(rows: Sequence[Row]) -> None:
    for row in rows:
        sys.stdout.buffer.write(msgspec.json.encode(msgspec.structs.asdict(row)) + b"\n")
    sys.stdout.buffer.flush()


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be a whole number, 0 or more")
    return int(text)
