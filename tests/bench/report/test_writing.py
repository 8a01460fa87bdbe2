from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from bench.errors import BenchError
from bench.gate.result import GateResult
from bench.report.page import embedded
from bench.report.writing import page_of, write_report
from bench.result import Result
from tests.bench.report.results import NASTY, comparison, everything, gate


class Reader(HTMLParser):
    """Elements, ids, links and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.policy = ""
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert "style" not in values, "the policy allows no style attributes"
        self.tags.append(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def page_in(directory: Path) -> str:
    return (directory / "report.html").read_text()


def stored(reader: Reader) -> bytes:
    (link,) = [link for link in reader.links if link.startswith("data:")]
    return gzip.decompress(base64.b64decode(link.partition(",")[2]))


def test_both_files_are_written(reports: dict[str, Path]) -> None:
    for directory in reports.values():
        assert sorted(path.name for path in directory.iterdir()) == ["report.html", "report.md"]


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(BenchError, match=r"report\.html cannot be written: Is a directory"):
        write_report(gate(), tmp_path)


@pytest.mark.parametrize("name", ["compare", "gate"])
def test_the_page_needs_and_allows_nothing_from_outside(reports: dict[str, Path], name: str) -> None:
    text = page_in(reports[name])
    page = read(text)
    assert {"script", "img", "link", "iframe", "object"}.isdisjoint(page.tags)
    assert {link[0] for link in page.links if not link.startswith("data:application/gzip")} <= {"#"}
    assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert page.policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_what_others_wrote_is_text(reports: dict[str, Path]) -> None:
    for name in ("compare", "gate"):
        assert NASTY in read(page_in(reports[name])).text


@pytest.mark.parametrize("make", [comparison, gate])
def test_directories_of_a_machine_are_its_own(make: Callable[[], Result | GateResult]) -> None:
    arguments = ("bench", "compare", "--out", "/home/nobody-else/run")
    page = page_of(msgspec.structs.replace(make(), arguments=arguments))
    assert "bench compare --out run" in page
    assert "nobody-else" not in page


def test_the_page_holds_its_data_and_is_small(reports: dict[str, Path]) -> None:
    page, other = page_in(reports["compare"]), page_in(reports["gate"])
    assert msgspec.json.decode(stored(read(page)), type=Result) == everything()
    assert msgspec.json.decode(stored(read(other)), type=GateResult) == gate()
    assert len(page) < 3_000_000


def test_data_that_would_make_the_page_large_stays_beside_it() -> None:
    noise = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(80_000))
    data = embedded(noise, "result.json")
    assert (data.link, data.name, data.is_within) == ("result.json", "result.json", False)


def test_measured_stands_beside_quoted(reports: dict[str, Path]) -> None:
    text = re.sub(r"\s+", " ", read(page_in(reports["compare"])).text)
    assert "Requests per second JSON quoted database quoted template quoted" in text
    for quoted in ("38,000", "22,000", "6,000", "380", "350"):
        assert quoted in text


def test_sections_say_what_was_not_measured(reports: dict[str, Path]) -> None:
    page = read(page_in(reports["sparse"]))
    assert page.text.count("Not measured.") == 7
    assert "Fewer than three rounds" in page.text
    assert "NaN" not in page.text
    assert "None" not in page.text


def test_a_server_may_be_missing_and_another_be_new() -> None:
    result = comparison(num_rounds=1, stacks=("pilotlight", "fastapi"))
    name = "a" * 80
    page = page_of(
        msgspec.structs.replace(
            result,
            rounds=tuple(
                msgspec.structs.replace(entry, contender=name) if entry.contender == "fastapi" else entry
                for entry in result.rounds
            ),
        )
    )
    assert "a" * 81 not in page
    assert f"<title>{name}, 1,000 connections: " in page
    assert "not measured" in page


def test_nothing_at_all_is_a_page_too() -> None:
    empty = msgspec.structs.replace(
        comparison(num_rounds=1), rounds=(), summary={}, ratios=(), peers={}, plan={}, arguments=()
    )
    assert "No goal was measured" in read(page_of(empty)).text
    bare = msgspec.structs.replace(gate("pass"), metrics=(), errors=(), notes=(), plan={}, verdict="inconclusive")
    assert "Not measured." in read(page_of(bare)).text
