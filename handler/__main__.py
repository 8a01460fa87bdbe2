"""The `pilotlight` command. Exit codes: 0 good, 1 a finding or a failure, 2 bad usage or configuration."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from handler import __version__
from handler.errors import ConfigurationError, PilotlightError
from handler.settings import Settings

COMMANDS = ("serve", "prepare", "logs", "check")


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="pilotlight", description="An LLM endpoint that is lit in about a second.")
    parser.add_argument("--version", action="version", version=f"pilotlight {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Only what the named command imports is imported: a cold start pays for every module.
    names = argv[:1] if argv[:1] and argv[0] in COMMANDS else COMMANDS
    commands = {name: importlib.import_module(f"handler.cli.{name}") for name in names}
    for command in commands.values():
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        settings = Settings.from_env(read_environment(Path(".env")))
        code: int = commands[args.command].run(args, settings)
    except ConfigurationError as error:
        return _complain(error, 2)
    except PilotlightError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 130
    return code


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
