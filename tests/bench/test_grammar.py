from __future__ import annotations

from pathlib import Path

from bench.grammar import BATCHES, TEMPERATURES, measure
from handler.engine.snapshot import Snapshot
from handler.settings import Settings


def test_every_batch_and_temperature_is_measured(tiny_served: Snapshot, tmp_path: Path) -> None:
    settings = Settings.from_env(
        {
            "PILOTLIGHT_HOME": str(tmp_path),
            "MODEL_NAME": str(tiny_served.directory),
            "MODEL_DEVICE": "cpu",
            "DATABASE_URL": "none",
        }
    )
    figures = measure(settings, steps=8, rounds=2).figures
    assert {(figure.batch, figure.temperature) for figure in figures} == {
        (batch, temperature) for batch in BATCHES for temperature in TEMPERATURES
    }
    for figure in figures:
        assert figure.plain_ms.median > 0
        assert figure.ratio.low <= figure.ratio.median <= figure.ratio.high
