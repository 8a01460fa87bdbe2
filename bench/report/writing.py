"""Writes the report of a comparison or of a gate: a page, and a comment for a pull request."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError
from bench.gate.result import GateResult
from bench.report.comparison import comparison_html
from bench.report.gating import gate_html
from bench.report.markdown import comparison_markdown, gate_markdown
from bench.result import Result, published


def write_report(result: Result | GateResult, directory: Path) -> None:
    """Write `report.html` and `report.md` there.

    Raises:
        BenchError: a file cannot be written, or a round of the result holds no points but something else.
    """
    write_text(page_of(result), directory / "report.html")
    write_text(comment_of(result), directory / "report.md")


def page_of(result: Result | GateResult) -> str:
    """One HTML file that needs nothing else."""
    shown = published(result)
    return gate_html(shown) if isinstance(shown, GateResult) else comparison_html(shown)


def comment_of(result: Result | GateResult) -> str:
    """The same in short, as Markdown."""
    return gate_markdown(result) if isinstance(result, GateResult) else comparison_markdown(result)


def write_text(text: str, path: Path) -> None:
    """Write a file of a report.

    Raises:
        BenchError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from error
