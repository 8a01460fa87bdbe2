"""What `GET /template` shows: rows for `templates/fortunes.html`, which Jinja2 and Django's engine read alike.

TechEmpower's fortunes without their database: a dozen rows and one more that is added with each request, sorted by
their text, one of which would run as a script if it were not escaped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "fortunes.html"

SCRIPT = '<script>alert("escape me");</script>'

_MESSAGES = (
    "A benchmark is a question; make sure that it is yours.",
    "A cache is a promise that nothing has changed.",
    "Any load can be carried by a server that refuses it.",
    "Every queue is empty until somebody looks.",
    "He who measures once has a number; he who measures twice has a doubt.",
    "No test is quicker than the one that was skipped, nor dearer.",
    "Premature optimisation is at least on time.",
    "The mean is where nobody lives.",
    "There is no cloud, and its cold start is slow.",
    "Two clocks never agree; three never should.",
    "フレームワークのベンチマーク",
    SCRIPT,
)


class Fortune(TypedDict):
    """One row."""

    id: int
    message: str


def fortunes() -> list[Fortune]:
    """The rows of one page, made anew as every handler makes them."""
    rows = [Fortune(id=number, message=message) for number, message in enumerate(_MESSAGES, start=1)]
    rows.append(Fortune(id=0, message="Added when the page was asked for."))
    rows.sort(key=lambda row: row["message"])
    return rows
