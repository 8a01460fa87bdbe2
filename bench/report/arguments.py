"""The command line of `pilotlight bench report`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bench report`."""
    parser = subparsers.add_parser(
        "report",
        help="make the report of a comparison or of the gate anew",
        description="Makes a page, or a comment for a pull request, of what `bench compare` or `bench gate` left.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a result, or a directory with a result.json")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="write the page there (report.html beside FILE)")
    parser.add_argument(
        "--markdown", action="store_true", help="print the comment for a pull request; the page only with --out"
    )
