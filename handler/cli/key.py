"""`pilotlight key`: makes an API key, and what settings keep of it. Nothing is stored."""

from __future__ import annotations

import argparse
import json

from handler.errors import ConfigurationError
from handler.keys import new_key, parse_keys, shown_digest
from handler.settings import Settings


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "key", help="make an API key", description="Make an API key, and what API_KEYS is to hold in its place."
    )
    parser.add_argument("name", metavar="NAME", help="whose key it is, as the request log will say")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print the key, once and nowhere else, and the entry for API_KEYS.

    Raises:
        ConfigurationError: API_KEYS could not hold a key of that name.
    """
    del settings
    key = new_key()
    entry = f"{args.name}:{shown_digest(key)}"
    try:
        can_be_read = list(parse_keys(entry)) == [args.name]
    except ValueError:
        can_be_read = False
    if not can_be_read:
        raise ConfigurationError("NAME", f"must be a word without colon and comma, got {args.name!r}")
    if args.json:
        print(json.dumps({"key": key, "entry": entry}))  # noqa: T201  (the command's own output)
    else:
        print(f"{key}\nAPI_KEYS={entry}")  # noqa: T201  (the command's own output)
    return 0
