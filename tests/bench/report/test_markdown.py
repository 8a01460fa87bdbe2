from __future__ import annotations

import re

import msgspec
import pytest
from markdown_it import MarkdownIt

from bench.gate.result import Verdict
from bench.report.markdown import GATE_MARK, comparison_markdown, foreign, gate_markdown, literal
from tests.bench.report.results import NASTY, comparison, everything, gate


def rendered(markdown: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


@pytest.mark.parametrize(
    ("verdict", "headline"), [("pass", "Not slower"), ("fail", "Slower"), ("inconclusive", "Not certain")]
)
def test_the_gates_verdict_comes_first(verdict: Verdict, headline: str) -> None:
    lines = gate_markdown(gate(verdict)).splitlines()
    assert lines[0] == GATE_MARK
    assert lines[1].endswith(f" {headline}")


def test_the_gates_comment() -> None:
    text = gate_markdown(gate())
    assert "| Latency of fail | 19.9 ms | 22.4 ms | +12.4 % (+11.2 % to +13.6 %) | ❌ fail |" in text
    assert "| Decode a request | 182,332 instructions | 182,340 instructions | +0.0 % | ✅ pass |" in text
    page = rendered(text)
    assert page.count("<table>") == 2
    assert page.count("<details>") == page.count("</details>") == 1
    assert "valgrind is missing" in page


def test_words_of_others_make_no_markup() -> None:
    page = rendered(gate_markdown(gate()))
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<strong>" not in page
    assert "&lt;b&gt;markup&lt;/b&gt; for @somebody, fixes #12" in page
    # GitHub follows mentions and references in all text but code.
    assert all("<code>" in line for line in page.splitlines() if "@somebody" in line)


def test_a_text_stays_on_its_line_and_in_its_cell() -> None:
    text = "a | b\n# c <i>d</i> www.example.com http://example.com [e](f) ![g](h) ~~i~~ \\"
    page = rendered(f"| x |\n|---|\n| {literal(text)} |\n")
    assert page.count("<td>") == 1
    assert re.sub("<[^>]+>|\n", "", page).startswith("xa | b # c &lt;i&gt;d&lt;/i&gt; www.example.com http://")
    assert not re.search("<(i|a|img|s|h1)\\b", page)
    assert foreign(NASTY).startswith("<code>")


def test_a_comparisons_comment() -> None:
    text = comparison_markdown(everything())
    assert text.splitlines()[1] == "### ✅ All 5 goals reached"
    page = rendered(text)
    assert page.count("<table>") == 4
    assert "Flask, round 3: <code>&lt;script&gt;" in page
    assert "8 points are invalid" in page
    assert "38,000" in page


def test_a_comment_without_anything() -> None:
    empty = msgspec.structs.replace(comparison(num_rounds=1), rounds=(), summary={}, ratios=())
    assert "No goal was measured" in comparison_markdown(empty)
    bare = msgspec.structs.replace(gate("pass"), metrics=(), errors=(), notes=(), verdict="inconclusive")
    assert "nothing was measured" in gate_markdown(bare)
