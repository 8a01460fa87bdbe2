from __future__ import annotations

import sys
from pathlib import Path

import pytest
import transformers

from bench.engine.gguf import gguf_of
from bench.engine.peers import TransformersBatch
from bench.engine.plan import Plan
from bench.models import random_model
from handler.errors import ConfigurationError
from handler.settings import Settings


def test_transformers_runs_the_same_prompts_in_its_own_process(tmp_path: Path) -> None:
    snapshot = random_model("tiny", "float32", tmp_path)
    plan = Plan(
        snapshot=str(snapshot.directory),
        clients=(1, 2),
        tokens=6,
        requests_per_client=1,
        prompt_tokens=10,
        rounds=1,
        seed=0,
    )
    measured = TransformersBatch(plan, Path(sys.executable), "float32", "cpu").measure(0)
    assert set(measured.metrics) == {f"{name}tokens_per_s@{size}" for name in ("", "batch_") for size in (1, 2)}
    assert all(rate > 0 for rate in measured.metrics.values())
    assert measured.details["version"] == transformers.__version__


def test_the_gguf_of_a_model(tmp_path: Path) -> None:
    def settings(model: str) -> Settings:
        return Settings.from_env({"MODEL_NAME": model, "PILOTLIGHT_HOME": str(tmp_path)})

    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    assert gguf_of(settings(str(gguf)), None) == gguf
    assert gguf_of(settings("org/model"), gguf) == gguf
    for model, given in (("org/model", None), ("smollm2-135m", tmp_path / "missing.gguf"), ("org/model", tmp_path)):
        with pytest.raises(ConfigurationError, match="--gguf"):
            gguf_of(settings(model), given)


def test_the_embedded_gguf_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / "bench" / "gguf" / "smollm2-135m.gguf"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"GGUF")
    assert gguf_of(Settings.from_env({"PILOTLIGHT_HOME": str(tmp_path)}), None) == kept
