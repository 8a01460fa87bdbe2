from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import bench.cli
from bench.result import Result
from handler.__main__ import main


def test_a_short_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("MAX_BATCH_SIZE", "4")
    out = tmp_path / "result.json"
    arguments = ("--only", "pilotlight-stub", "--seconds", "2", "--queue-timeout", "2", "--json", "--out", str(out))
    code = main(["bench", "overload", *arguments], {"bench": bench.cli})
    captured = capfdbinary.readouterr()
    result = msgspec.json.decode(captured.out, type=Result)
    assert result == msgspec.json.decode(out.read_bytes(), type=Result)
    assert result.failures == ()
    assert code == (1 if b"missed: " in captured.err else 0)
    (measured,) = result.rounds
    metrics = measured.metrics
    assert 0 < metrics["sustained_requests_per_s"] <= 12.5  # four places, 64 steps of 5 ms
    assert metrics["refused_share@5x"] > 0.5
    assert metrics["refusal_server_p50_ms@5x"] <= metrics["refusal_p50_ms@5x"]
    attempts = measured.details["offered"]["attempts"]
    assert {status for _, status, *_ in attempts} <= {200, 429, 504}
    assert all((retry_after_s is not None) == (status == 429) for _, status, _, _, retry_after_s in attempts)
