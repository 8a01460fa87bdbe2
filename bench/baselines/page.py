"""The page of `GET /template` from Jinja2 alone, without a framework: for the function and for the floor."""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import Environment, FileSystemLoader

from bench.baselines.fortunes import PAGE, TEMPLATES, Fortune


def page_renderer() -> Callable[[list[Fortune]], bytes]:
    """What renders rows; the template is compiled once and values in it are escaped."""
    template = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, auto_reload=False).get_template(PAGE)

    def render(rows: list[Fortune]) -> bytes:
        return template.render(fortunes=rows).encode()

    return render


def render_page(rows: list[Fortune]) -> bytes:
    """One page."""
    return page_renderer()(rows)
