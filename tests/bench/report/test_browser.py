"""Reports in a real browser, on a desk and on a phone, by day and by night: what only a browser knows of a page."""

from __future__ import annotations

import gzip
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from bench.result import Result
from tests.bench.report.results import everything

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DESK, PHONE = 1280, 375
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium (Debian: apt-get install chromium)")

CONTRASTS = """
() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = channels(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    throw new Error("no background");
  };
  const bad = [];
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || ["STYLE", "title", "desc"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const ink = channels(element instanceof SVGElement ? style.fill : style.color);
    const [high, low] = [light(ink), light(paper(element))].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    seen += 1;
    if (contrast < 4.5) bad.push([node.data.trim().slice(0, 40), contrast]);
  }
  return {bad, seen};
}
"""

LABELS = """
() => [...document.querySelectorAll("svg.plot, .forest .scale svg")].map((drawing) =>
  [...drawing.querySelectorAll("text")]
    .filter((text) => text.getClientRects().length)
    .map((text) => {
      const {left, right, top, bottom} = text.getBoundingClientRect();
      return {text: text.textContent, left, right, top: top + 2, bottom: bottom - 2};
    }))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()


@pytest.fixture(params=["compare", "sparse", "gate"])
def report(request: pytest.FixtureRequest, reports: dict[str, Path]) -> Path:
    return reports[request.param] / "report.html"


def opened(browser: Browser, report: Path, width: int, scheme: Literal["light", "dark"], complaints: list[str]) -> Page:
    """The page, in a browser that notes what its console says, and refuses and notes what is asked of a network."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)

    def refuse(route: Any) -> None:
        complaints.append(route.request.url)
        route.abort()

    page.route(lambda url: url.startswith(("http", "ws")), refuse)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    return page


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_a_page_fits_complains_of_nothing_and_can_be_read(browser: Browser, report: Path, width: int) -> None:
    complaints: list[str] = []
    shots = []
    for scheme in SCHEMES:
        page = opened(browser, report, width, scheme, complaints)
        shots.append(page.screenshot(full_page=True))
        check_labels(page)
        contrasts = page.evaluate(CONTRASTS)  # opens what is folded
        assert contrasts["seen"] > 50
        assert contrasts["bad"] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()
    assert complaints == []
    assert min(map(len, shots)) > 20_000
    assert shots[0] != shots[1]


def check_labels(page: Page) -> None:
    """No label of a chart lies on another one of it, or leaves the window."""
    width = page.viewport_size["width"] if page.viewport_size else 0
    for labels in page.evaluate(LABELS):
        for label in labels:
            assert label["left"] >= 0, label
            assert label["right"] <= width, label
        for one, other in itertools.combinations(labels, 2):
            apart = (
                one["right"] <= other["left"]
                or other["right"] <= one["left"]
                or one["bottom"] <= other["top"]
                or other["bottom"] <= one["top"]
            )
            assert apart, (one, other)


def test_charts_are_drawn_named_and_as_wide_as_there_is_room(browser: Browser, reports: dict[str, Path]) -> None:
    page = opened(browser, reports["compare"] / "report.html", PHONE, "light", [])
    charts = page.locator("svg.plot")
    assert charts.count() == page.locator("svg.plot[role=img] > title").count() > 20
    assert page.get_by_role("img", name="Throughput, whole answers").count() == 1
    for width, least in ((PHONE, 270), (DESK, 280)):
        page.set_viewport_size({"width": width, "height": 800})
        box = charts.first.bounding_box()
        assert box is not None
        assert box["width"] >= least
        assert box["height"] == 240
    first = page.locator("svg.plot").first
    drawn = first.locator("path.line.s-pilotlight").first.bounding_box()
    mark = first.locator("use.s-pilotlight").last.bounding_box()
    assert drawn is not None
    assert mark is not None
    assert drawn["width"] > 200
    assert abs(mark["x"] + mark["width"] / 2 - (drawn["x"] + drawn["width"])) < 3, "marks stand on their line"
    page.close()


@pytest.mark.parametrize("runs_scripts", [True, False])
def test_the_data_can_be_saved_without_scripts_too(
    browser: Browser, reports: dict[str, Path], runs_scripts: bool
) -> None:
    page = browser.new_page(java_script_enabled=runs_scripts)
    page.goto((reports["compare"] / "report.html").as_uri())
    with page.expect_download() as download:
        page.get_by_role("link", name="Download result.json.gz").click()
    assert download.value.suggested_filename == "result.json.gz"
    saved = gzip.decompress(Path(download.value.path()).read_bytes())
    assert msgspec.json.decode(saved, type=Result) == everything()
    page.close()
