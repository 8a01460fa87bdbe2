from __future__ import annotations

import msgspec
import pytest

from bench import speculation
from bench.speculation import BATCHES, PROMPTS, TEMPERATURES, Report
from handler.engine.snapshot import Snapshot
from tests.conftest import TEST_HOME


def test_every_kind_of_text_is_measured_with_and_without_drafts(
    embedded_snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PILOTLIGHT_HOME", str(TEST_HOME))
    monkeypatch.setenv("MODEL_DEVICE", "cpu")
    monkeypatch.setattr("sys.argv", ["speculation", "--json", "--drafts", "3", "--tokens", "8", "--rounds", "1"])
    assert speculation.main() == 0
    report = msgspec.json.decode(capsys.readouterr().out, type=Report)
    measured = {(f.kind, f.temperature, f.batch, f.draft_tokens) for f in report.figures}
    assert len(measured) == len(report.figures) == len(PROMPTS) * len(TEMPERATURES) * len(BATCHES) * 2
    assert all(figure.tokens_per_s.median > 0 for figure in report.figures)
    assert all(figure.to_no_drafts.median == 1 for figure in report.figures if figure.draft_tokens == 0)
    assert 0 <= report.acceptance[3] <= 1
