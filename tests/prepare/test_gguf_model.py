from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from handler.engine.snapshot import Snapshot
from handler.errors import SnapshotError, UnsupportedModelError
from handler.prepare.preparation import prepare
from handler.prepare.progress import NoProgress
from tests.prepare.gguf_files import llama3_divisors, write_gguf
from tests.tiny_models import SHAPE, VARIANTS, make_model

TEXT = "a Ünicode text,\n  with 123 and <|start|> in it"


def prepared(tmp_path: Path, model: PreTrainedModel, **options: Any) -> Snapshot:
    write_gguf(model, tmp_path / "tiny.gguf", **options)
    return prepare(str(tmp_path / "tiny.gguf"), tmp_path / "home", NoProgress())


def config_of(snapshot: Snapshot) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((snapshot.directory / "config.json").read_bytes())
    return config


def assert_same_logits(snapshot: Snapshot, model: PreTrainedModel) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(snapshot.directory, dtype=torch.float32)
    tokens = torch.arange(0, 250).reshape(2, 125)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "variant", ["llama", "llama-biases", "llama-head-dim", "mistral", "qwen2", "qwen3-tied-biases"]
)
def test_the_snapshot_computes_what_the_model_did(tmp_path: Path, variant: str) -> None:
    model = make_model(variant)
    snapshot = prepared(tmp_path, model)
    assert snapshot.name == "tiny"
    assert_same_logits(snapshot, model)


def test_config_json_says_what_the_file_says(tmp_path: Path) -> None:
    config = config_of(prepared(tmp_path, make_model("qwen3-tied-biases"), kind=gguf.GGMLQuantizationType.Q8_0))
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert {key: config[key] for key in SHAPE if key in config} == {
        "vocab_size": 259,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": 257,
        "eos_token_id": 258,
        "pad_token_id": 256,
    }
    assert config["head_dim"] == 16
    assert config["tie_word_embeddings"] is True
    assert config["attention_bias"] is True
    assert config["rms_norm_eps"] == 1e-06  # not 9.999999974752427e-07
    assert config["dtype"] == "float16"


def test_llama3_frequencies_become_the_parameters_they_came_from(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    VARIANTS["llama-3.1"] = ("Llama", {"rope_parameters": rope})
    model = make_model("llama-3.1")
    del VARIANTS["llama-3.1"]
    extra = {"rope_freqs.weight": llama3_divisors(16, 500000.0, 32.0)}
    snapshot = prepared(tmp_path, model, extra_tensors=extra)
    assert config_of(snapshot)["rope_scaling"] == {key: value for key, value in rope.items() if key != "rope_theta"}
    assert_same_logits(snapshot, model)


def test_other_frequencies_are_refused_by_name(tmp_path: Path) -> None:
    extra = {"rope_freqs.weight": llama3_divisors(16, 10000.0, 4.0, context=64)}
    with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight"):
        prepared(tmp_path, make_model("llama-llama3-rope"), extra_tensors=extra)


@pytest.mark.parametrize(
    ("variant", "metadata"),
    [
        ("llama-linear-rope", {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}),
        (
            "qwen2-yarn",
            {
                "qwen2.rope.scaling.type": "yarn",
                "qwen2.rope.scaling.factor": 4.0,
                "qwen2.rope.scaling.original_context_length": 256,
            },
        ),
    ],
)
def test_scaled_rope_computes_what_the_model_did(tmp_path: Path, variant: str, metadata: dict[str, Any]) -> None:
    model = make_model(variant)
    assert_same_logits(prepared(tmp_path, model, metadata=metadata), model)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.attention.sliding_window": 40}, "llama.attention.sliding_window"),
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.feed_forward_length": [96, 96, 64]}, "one value for all layers"),
        ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "longrope"),
        ({"llama.rope.scaling.factor": 2.0}, "without a type"),
    ],
)
def test_metadata_that_cannot_be_said_exactly_is_refused_by_name(
    tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        prepared(tmp_path, make_model("llama"), metadata=metadata)


def test_a_bias_on_one_projection_only_is_refused(tmp_path: Path) -> None:
    extra = {"blk.0.attn_q.bias": np.ones(64, dtype=np.float32)}
    with pytest.raises(UnsupportedModelError, match="biases of llama"):
        prepared(tmp_path, make_model("llama"), extra_tensors=extra)


def test_the_tokenizer_keeps_special_tokens_whole_and_text_intact(tmp_path: Path) -> None:
    snapshot = prepared(tmp_path, make_model("qwen2"))
    tokenizer = tokenizers.Tokenizer.from_file(str(snapshot.directory / "tokenizer.json"))
    tokens = tokenizer.encode(TEXT).ids
    assert 257 in tokens
    assert len(tokens) == len(TEXT.encode()) - len("<|start|>") + 1
    assert tokenizer.decode(tokens, skip_special_tokens=False) == TEXT
    special = json.loads((snapshot.directory / "tokenizer_config.json").read_bytes())
    assert (special["bos_token"], special["eos_token"], special["pad_token"]) == (
        "<|start|>",
        "<|end|>",
        "<|pad|>",
    )
    assert (snapshot.directory / "chat_template.jinja").read_text() == "{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("pre", "metadata", "begins"),
    [
        ("qwen2", {}, False),
        ("llama-bpe", {}, True),  # llama.cpp's default for this family
        ("llama-bpe", {"tokenizer.ggml.add_bos_token": False}, False),
        ("qwen2", {"tokenizer.ggml.add_bos_token": True}, True),
    ],
)
def test_a_first_token_is_added_where_the_file_says_so(
    tmp_path: Path, pre: str, metadata: dict[str, Any], begins: bool
) -> None:
    snapshot = prepared(tmp_path, make_model("qwen2"), pre=pre, metadata=metadata)
    tokenizer = tokenizers.Tokenizer.from_file(str(snapshot.directory / "tokenizer.json"))
    assert (tokenizer.encode("text").ids[0] == 257) is begins


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("smollm", "a  12", ["a", "  ", "1", "2"]),
        ("gpt-2", "a  12", ["a", " ", " 12"]),
        ("qwen2", "a  12", ["a", " ", " ", "1", "2"]),
        ("llama-bpe", "a 1234", ["a", " ", "123", "4"]),
    ],
)
def test_text_is_split_as_in_training(tmp_path: Path, pre: str, text: str, pieces: list[str]) -> None:
    snapshot = prepared(tmp_path, make_model("qwen2"), pre=pre)
    tokenizer = tokenizers.Tokenizer.from_file(str(snapshot.directory / "tokenizer.json"))
    split = [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    assert split == pieces


def test_qwen2_text_is_normalised(tmp_path: Path) -> None:
    snapshot = prepared(tmp_path, make_model("qwen2"))
    tokenizer = tokenizers.Tokenizer.from_file(str(snapshot.directory / "tokenizer.json"))
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("é").ids


def test_an_unknown_pre_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="pre-tokenizer 'chameleon'"):
        prepared(tmp_path, make_model("qwen2"), pre="chameleon")


def test_a_tokenizer_that_cannot_be_converted_says_why(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"cannot be converted: .*`xy`"):
        prepared(tmp_path, make_model("qwen2"), merges=["x y"])


def test_a_turn_end_of_its_own_counts_as_an_end(tmp_path: Path) -> None:
    snapshot = prepared(tmp_path, make_model("llama"), metadata={"tokenizer.ggml.eot_token_id": 256})
    generation = json.loads((snapshot.directory / "generation_config.json").read_bytes())
    assert generation["eos_token_id"] == [258, 256]


def test_a_file_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError):
        prepared(tmp_path, make_model("llama"), metadata={"llama.expert_count": 8})
    assert [path.suffix for path in (tmp_path / "home" / "snapshots").iterdir()] == [".lock"]
