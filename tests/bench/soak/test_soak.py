from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import bench.cli
from bench.soak.command import SoakResult
from handler.__main__ import main
from handler.engine.snapshot import Snapshot

MEMORY = "memory's slope after the first quarter"
"""Says nothing within seconds: caches still grow."""


def bench_soak(*arguments: str) -> int:
    return main(["bench", "soak", *arguments], {"bench": bench.cli})


def test_a_short_soak_balances(
    tmp_path: Path,
    embedded_snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.setenv("MODEL_NAME", str(embedded_snapshot.directory))
    out = tmp_path / "soak.json"
    code = bench_soak("--minutes", "0.1", "--json", "--out", str(out))
    result = msgspec.json.decode(capsysbinary.readouterr().out, type=SoakResult)
    assert msgspec.json.decode(out.read_bytes(), type=SoakResult) == result
    assert code == (0 if result.balanced else 1)
    assert [line for line in result.sheet if line.is_good is False and line.name != MEMORY] == []
    assert {end.split()[0] for ends in result.kinds.values() for end in ends} == {"answered", "refused", "cancelled"}
    assert len(result.outages) >= 4


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "1e9", "long"])
def test_a_wrong_length_is_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench_soak("--minutes", minutes)
    assert ended.value.code == 2
    assert "--minutes" in capsys.readouterr().err
