from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from bench.engine.arguments import SHAPE_NAMES
from bench.engine.memory import linear_weights
from bench.models import SHAPES, random_model, random_tensors, tensor_specs
from handler.boot import BootTimeline
from handler.engine.config import parse_config
from handler.engine.loading import load_core
from handler.engine.options import EngineOptions
from handler.engine.snapshot import Snapshot
from tests.engine.running import complete, generate, greedy


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return random_model("tiny", "float32", tmp_path_factory.mktemp("home"))


def test_the_command_line_knows_every_shape() -> None:
    assert tuple(SHAPES) == SHAPE_NAMES


def test_our_engine_and_transformers_run_the_same_model(tiny: Snapshot) -> None:
    core = load_core(tiny, EngineOptions(device="cpu", dtype="float32"), BootTimeline())
    prompt = core.model.tokenizer.encode("Once upon a time", add_special_tokens=False)
    (completion,) = complete(core, [prompt], greedy(12))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny.directory)
    assert completion.tokens == generate(model, prompt, 12)


def test_every_token_has_a_text_of_its_own(tiny: Snapshot) -> None:
    core = load_core(tiny, EngineOptions(device="cpu", dtype="float32"), BootTimeline())
    tokenizer = core.model.tokenizer
    pieces = {tokenizer.token_bytes(token_id) for token_id in range(SHAPES["tiny"]["vocab_size"])}
    assert len(pieces) == SHAPES["tiny"]["vocab_size"]
    assert b"" not in pieces
    text = "Zwölf Boxkämpfer, 3 + 4"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_model_is_made_once_and_anew_after_an_interruption(tmp_path: Path) -> None:
    directory = random_model("tiny", "bfloat16", tmp_path).directory
    weights = directory / "model.safetensors"
    made_ns = weights.stat().st_mtime_ns
    assert random_model("tiny", "bfloat16", tmp_path).directory == directory
    assert weights.stat().st_mtime_ns == made_ns
    (directory / "manifest.json").unlink()
    weights.write_bytes(b"half")
    random_model("tiny", "bfloat16", tmp_path)
    assert weights.stat().st_size > 100_000


def test_weights_are_random_across_the_borders_of_the_block() -> None:
    config = parse_config(SHAPES["smollm2-135m"])
    specs = [
        spec for spec in tensor_specs(config, torch.bfloat16) if "embed_tokens" in spec.name or "layers.0." in spec.name
    ]
    tensors = dict(random_tensors(specs))
    assert all(tensors[spec.name].shape == spec.shape and tensors[spec.name].dtype == spec.dtype for spec in specs)
    embedding = tensors["model.embed_tokens.weight"].float()
    assert embedding.std().item() == pytest.approx(0.02, rel=0.01)
    assert torch.equal(tensors["model.layers.0.input_layernorm.weight"].float(), torch.ones(576))


@pytest.mark.parametrize(("shape", "billions"), [("llama-8b", 8.03), ("llama-1b", 1.24), ("smollm2-135m", 0.1345)])
def test_shapes_are_as_large_as_their_names_say(shape: str, billions: float) -> None:
    config = parse_config(SHAPES[shape])
    specs = tensor_specs(config, torch.bfloat16)
    assert sum(torch.Size(spec.shape).numel() for spec in specs) / 1e9 == pytest.approx(billions, rel=0.01)
    names = [spec for spec in specs if len(spec.shape) == 2 and ("layers" in spec.name or "lm_head" in spec.name)]
    tied = config.vocab_size * config.hidden_size if config.tie_word_embeddings else 0
    assert linear_weights(config) == sum(torch.Size(spec.shape).numel() for spec in names) + tied
