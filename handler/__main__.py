"""The `pilotlight` command.

Exit codes: 0 good, 1 a finding or a failure, 2 bad usage or configuration, 3 the engine was lost while it served.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from handler import __version__
from handler.errors import ConfigurationError, PilotlightError
from handler.settings import Settings

COMMANDS = ("serve", "prepare", "logs", "check", "key")
COMMAND_GROUP = "pilotlight.commands"
"""Entry points of this group are commands too: so the harness has one, and nothing here knows the harness."""


class Command(Protocol):
    """A module that is a subcommand."""

    def add_parser(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        """Declare it."""
        ...

    def run(self, args: argparse.Namespace, settings: Settings) -> int:
        """Do it, and return the exit code."""
        ...


def main(argv: list[str] | None = None, plugins: Mapping[str, Command] | None = None) -> int:
    """Run one subcommand; `plugins` are commands beside our own, None takes those that are installed."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="pilotlight", description="An LLM endpoint that is lit in about a second.")
    parser.add_argument("--version", action="version", version=f"pilotlight {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Only what the named command imports is imported: a cold start pays for every module.
    is_own = bool(argv) and argv[0] in COMMANDS
    commands: dict[str, Command] = {
        name: importlib.import_module(f"handler.cli.{name}") for name in (argv[:1] if is_own else COMMANDS)
    }
    if not is_own:
        commands |= installed_commands() if plugins is None else plugins
    for command in commands.values():
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        settings = Settings.from_env(read_environment(Path(".env")))
        code = commands[args.command].run(args, settings)
    except ConfigurationError as error:
        return _complain(error, 2)
    except PilotlightError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 130
    return code


def installed_commands() -> dict[str, Command]:
    """Commands that installed packages bring, by name."""
    from importlib.metadata import entry_points  # noqa: PLC0415  (a tenth of what a start imports before it listens)

    return {point.name: point.load() for point in entry_points(group=COMMAND_GROUP)}


def _complain(error: PilotlightError, code: int) -> int:
    print(f"pilotlight: {error}", file=sys.stderr)  # noqa: T201  (the command's own output)
    return code


def read_environment(dotenv: Path) -> dict[str, str]:
    """The process's environment, over what `dotenv` says if there is such a file.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if not dotenv.is_file():
        return dict(os.environ)
    from dotenv import dotenv_values  # noqa: PLC0415  (most starts have no .env to parse)

    try:
        values = {key: value for key, value in dotenv_values(dotenv).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(dotenv), f"cannot be read: {error}") from error
    return values | dict(os.environ)


if __name__ == "__main__":
    sys.exit(main())
