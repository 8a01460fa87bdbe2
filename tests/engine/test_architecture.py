from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handler.boot import BootTimeline
from handler.engine.architecture import OwnArchitecture, open_architecture
from handler.engine.config import ModelConfig
from handler.engine.loading import load_core
from handler.engine.options import EngineOptions
from handler.engine.snapshot import Snapshot
from handler.errors import ConfigurationError, CorruptSnapshotError

TinySnapshot = Callable[[str], Snapshot]


def test_our_decoder_takes_what_it_knows(tiny_snapshot: TinySnapshot) -> None:
    timeline = BootTimeline()
    architecture = open_architecture(tiny_snapshot("qwen3").directory, timeline)
    assert isinstance(architecture, OwnArchitecture)
    assert isinstance(architecture.shape, ModelConfig)
    assert [phase.name for phase in timeline.phases] == ["interpreter"]


@pytest.mark.parametrize("variant", ["phi", "llama-gelu"])
def test_transformers_takes_the_rest_and_the_boot_says_so(variant: str, tiny_snapshot: TinySnapshot) -> None:
    timeline = BootTimeline()
    core = load_core(tiny_snapshot(variant), EngineOptions(device="cpu"), timeline)
    assert core.model.info.quantization == "none"
    assert core.model.info.max_model_len == 1024
    assert core.model.info.vocab_size == 259
    assert [phase.name for phase in timeline.phases] == [
        "interpreter",
        "import_transformers",
        "rehearsal",
        "tokenizer",
        "weights",
        "kv_cache",
        "warm_up",
    ]


def test_without_transformers_the_extra_is_named(tiny_snapshot: TinySnapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tiny_snapshot("phi").directory
    for name in [name for name in sys.modules if name.startswith("handler.engine.foreign")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigurationError, match="PhiForCausalLM runs through transformers") as caught:
        open_architecture(directory, BootTimeline())
    assert caught.value.key == "MODEL_NAME"
    assert "pip install 'pilotlight[transformers]'" in str(caught.value)


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptSnapshotError, match=r"config\.json"):
        open_architecture(tmp_path, BootTimeline())
