"""`pilotlight bench report`: reads a result, writes its page or prints its comment.

Exit codes: 0 when it was made, 1 when it cannot be written or the result is damaged, 2 when there is no result to show.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.report.reading import read_result
from bench.report.writing import comment_of, page_of, write_text
from handler.settings import Settings


def run(args: argparse.Namespace, _settings: Settings) -> int:
    """Make the report.

    Raises:
        ConfigurationError: there is no result to show.
        BenchError: the result is damaged, or the page cannot be written.
    """
    result = read_result(args.file)
    if args.markdown:
        sys.stdout.write(comment_of(result))
    if args.out is not None or not args.markdown:
        page = args.out if args.out is not None else _beside(args.file)
        write_text(page_of(result), page)
        sys.stderr.write(f"wrote {page}\n")
    return 0


def _beside(file: Path) -> Path:
    return (file if file.is_dir() else file.parent) / "report.html"
