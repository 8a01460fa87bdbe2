from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from handler.engine.foreign.architecture import ForeignArchitecture
from handler.errors import SnapshotError
from tests.tiny_models import FOREIGN_VARIANTS, SHAPE


def save(directory: Path, config_class: str, architecture: str, **overrides: Any) -> Path:
    config = getattr(transformers, config_class)(**(SHAPE | overrides))
    config.architectures = [architecture]
    config.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("variant", FOREIGN_VARIANTS)
def test_the_shape_is_found(variant: str, tmp_path: Path) -> None:
    config_class, model_class, overrides = FOREIGN_VARIANTS[variant]
    shape = ForeignArchitecture(save(tmp_path, config_class, model_class, **overrides)).shape
    layers = overrides.get("num_hidden_layers", 3)
    assert (shape.architecture, shape.vocab_size, shape.num_layers) == (model_class, 259, layers)
    assert shape.context_tokens == (256 if variant == "phi3-long-rope" else 1024)
    assert shape.head_dim == (24 if variant == "deepseek-v3" else 16)
    assert len(shape.sliding_windows) == layers
    assert shape.num_kv_heads == (4 if variant in {"phi", "gpt-neox", "gpt2", "opt", "deepseek-v3"} else 2)


@pytest.mark.parametrize(
    ("config_class", "architecture", "reason"),
    [
        ("MambaConfig", "MambaForCausalLM", "keeps a state that is no keys and values"),
        ("JambaConfig", "JambaForCausalLM", "keeps a state that is no keys and values"),
        ("BloomConfig", "BloomForCausalLM", "does not go through transformers' AttentionInterface"),
        ("GPTJConfig", "GPTJForCausalLM", "does not go through transformers' AttentionInterface"),
        ("T5Config", "T5ForConditionalGeneration", "no causal language model of that name"),
        ("BartConfig", "BartForCausalLM", "more than a decoder of text"),
        ("Gemma3Config", "Gemma3ForConditionalGeneration", "more than a decoder of text"),
        ("PhiConfig", "PhiForTokenClassification", "no causal language model of that name"),
        ("RobertaConfig", "RobertaForCausalLM", "neither causal nor a sliding window"),
    ],
)
def test_what_is_unfit_is_refused_by_name(config_class: str, architecture: str, reason: str, tmp_path: Path) -> None:
    config = getattr(transformers, config_class)()
    config.architectures = [architecture]
    config.save_pretrained(tmp_path)
    with pytest.raises(SnapshotError, match=f"^{architecture} cannot be served: .*{reason}"):
        ForeignArchitecture(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "its weights are quantised"),
        ({"model_type": "unheard-of"}, "transformers fails to run it"),
        ({"model_type": "custom", "auto_map": {"AutoConfig": "evil.C"}}, "transformers fails to run it"),
        ({"hidden_act": "unheard-of"}, "transformers fails to run it"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_refused_in_one_line(
    changes: dict[str, Any], reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path, "PhiConfig", "PhiForCausalLM") / "config.json"
    mark = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: ...\n")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SnapshotError, match=f"PhiForCausalLM cannot be served: {reason}") as caught:
        ForeignArchitecture(tmp_path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert capfd.readouterr() == ("", "")


def test_a_model_without_positions_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, "PhiConfig", "PhiForCausalLM") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": None}))
    with pytest.raises(SnapshotError, match="max_position_embeddings"):
        ForeignArchitecture(tmp_path)
