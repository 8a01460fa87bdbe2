"""From what a page holds to one HTML file that asks the network for nothing. Knows no measurements.

The page's policy allows its own style sheet, by its hash, and nothing else: no script runs in it. What it was made of
is in it, compressed, behind a link.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from typing import Any

import jinja2
import msgspec

from bench.report.facts import moment
from bench.report.numbers import mebibytes
from bench.report.plot import HEIGHT_PX, WIDTH

_MOST_EMBEDDED_BYTES = 2_400_000


class Embedded(msgspec.Struct, frozen=True):
    """The data behind a page.

    Attributes:
        link: where it is: in the page, or in a file beside it.
        name: of the file that a browser saves.
        size: in words.
        is_within: whether it is in the page.
    """

    link: str
    name: str
    size: str
    is_within: bool


def embedded(data: bytes, name: str) -> Embedded:
    """The data as a link; what would make the page too large to send round stays in the file beside it."""
    packed = base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
    if len(packed) > _MOST_EMBEDDED_BYTES:
        return Embedded(name, name, mebibytes(len(data)), is_within=False)
    return Embedded(
        f"data:application/gzip;base64,{packed}", f"{name}.gz", mebibytes(len(packed) * 3 / 4), is_within=True
    )


def render(template: str, **values: Any) -> str:
    """The page. All values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"moment": moment}
    environment.globals |= {"plot_height": HEIGHT_PX, "plot_width": WIDTH}
    style = environment.get_template("style.css").render()
    policy = f"default-src 'none'; style-src 'sha256-{_sha256(style)}'; base-uri 'none'; form-action 'none'"
    page = environment.get_template(template)
    return page.render(style=style, policy=policy, **values)


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
