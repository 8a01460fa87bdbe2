"""Snapshots with random weights in the shape of well-known models: what a speed benchmark needs where no hub is.

`python -m bench.models SHAPE` writes one ahead of the benchmark that wants it.

Weights are one block of random numbers, laid down again and again: they are written as fast as the disk takes them,
and never more than that block is in memory. Every token id has a text of its own, so that each generated token is
streamed as one would be of a trained model. Values of such a model mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers

from handler.engine.config import ModelConfig, parse_config
from handler.engine.parameters import parameters
from handler.engine.snapshot import FORMAT_VERSION, MANIFEST_FILE, Manifest, Snapshot, open_snapshot
from handler.engine.weights.safetensors import SINGLE_FILE
from handler.engine.weights.specs import TensorSpec
from handler.prepare.documents import write_json
from handler.prepare.safetensors_stream import write_safetensors
from handler.settings import Settings

Dtype = Literal["bfloat16", "float16", "float32"]

_BLOCK_ELEMENTS = 1 << 24
_STD = 0.02
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "


def _llama(**shape: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | shape


SHAPES: dict[str, dict[str, Any]] = {
    "llama-8b": _llama(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=False,
    ),
    "llama-1b": _llama(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
    ),
    "smollm2-135m": _llama(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        rope_theta=100000.0,
        tie_word_embeddings=True,
    ),
    "tiny": _llama(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
    ),
}


def random_model(shape: str, dtype: Dtype, home: Path) -> Snapshot:
    """The snapshot of a random model below `home`, made now unless it is there."""
    directory = home / "bench" / "models" / f"{shape}-{dtype}"
    if not (directory / MANIFEST_FILE).is_file():
        shutil.rmtree(directory, ignore_errors=True)  # what an interrupted run left
        directory.mkdir(parents=True)
        _write(directory, f"random-{shape}", SHAPES[shape] | {"dtype": dtype})
    return open_snapshot(directory)


def _write(directory: Path, name: str, raw: dict[str, Any]) -> None:
    config = parse_config(raw)
    write_json(directory / "config.json", raw)
    write_json(directory / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    (directory / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")
    word_tokenizer(config.vocab_size).save(str(directory / "tokenizer.json"))
    specs = tensor_specs(config, getattr(torch, raw["dtype"]))
    write_safetensors(directory / SINGLE_FILE, specs, random_tensors(specs), lambda _: None)
    # Sizes and checksums are not taken: they would cost more than the weights, which nobody transports.
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source="random weights",
        name=name,
        files=(),
        created_at="1970-01-01T00:00:00+00:00",
    )
    (directory / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))


def tensor_specs(config: ModelConfig, dtype: torch.dtype) -> list[TensorSpec]:
    """Every tensor that the decoder wants of a checkpoint, once."""
    shapes = {name: shape for parameter in parameters(config) for name, shape in parameter.stored.items()}
    return [TensorSpec(name, dtype, shape) for name, shape in shapes.items()]


def random_tensors(specs: list[TensorSpec]) -> Iterator[tuple[str, torch.Tensor]]:
    """Norms are ones; everything else is cut from one endless repetition of a random block."""
    generator = torch.Generator().manual_seed(0)
    block = (torch.randn(_BLOCK_ELEMENTS, generator=generator) * _STD).to(specs[0].dtype)
    for spec in specs:
        if len(spec.shape) == 1:
            yield spec.name, torch.ones(spec.shape, dtype=spec.dtype)
            continue
        count = spec.shape[0] * spec.shape[1]
        yield spec.name, block.repeat(-(-count // _BLOCK_ELEMENTS))[:count].view(spec.shape)


def word_tokenizer(vocab_size: int) -> tokenizers.Tokenizer:
    """One token per byte of a prompt; each further id is a word, which only a model produces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ("\u0120" + "".join(letters) for letters in itertools.product(_LETTERS, repeat=4))
    vocab = dict(zip([*alphabet, *itertools.islice(words, vocab_size - len(alphabet))], range(vocab_size), strict=True))
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def main() -> int:
    """Write the snapshot and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m bench.models", description="Write a model with random weights.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--dtype", choices=get_args(Dtype), default="bfloat16", help="of the weights")
    args = parser.parse_args()
    home = Settings.from_env(os.environ).pilotlight_home
    sys.stdout.write(f"{random_model(args.shape, args.dtype, home).directory}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
