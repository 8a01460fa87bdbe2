"""The files of a model: weights, configuration, tokenizer, template."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from handler.engine.chat_template import ChatTemplate, read_chat_template
from handler.engine.config import read_config
from handler.engine.generation_config import read_generation_defaults
from handler.engine.parameters import parameters
from handler.engine.snapshot import open_snapshot
from handler.engine.tokenizer import TextStream, Tokenizer
from handler.engine.weights.gguf import GgufFile
from handler.engine.weights.safetensors import SINGLE_FILE, iter_tensors
from handler.engine.weights.specs import TensorSpec
from handler.errors import ConfigurationError, InvalidRequestError, SnapshotError
from handler.prepare.gguf_config import config_of, generation_config_of
from handler.prepare.safetensors_stream import write_safetensors
from tests.fuzz.mutation import mutated_binary, mutated_bytes, mutated_json
from tests.fuzz.runner import Target
from tests.prepare.gguf_files import write_gguf
from tests.tiny_models import byte_tokenizer, make_model

_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message.content | trim }}{% if loop.last %}!{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ bos_token }}{% endif %}{% set ns = namespace(n=1) %}"
    "{% for i in range(3) %}{% set ns.n = ns.n * 2 + i %}{{ tools | tojson }}{% endfor %}{% macro f(x) %}{{ x }}{% endmacro %}{{ f(ns.n) }}"
)
_TEMPLATE_PIECES = [
    *(
        b"{%",
        b"%}",
        b"{{",
        b"}}",
        b"{#",
        b"#}",
        b"for",
        b"in",
        b"if",
        b"set",
        b"range(",
        b")",
        b"[",
        b"]",
        b"|",
        b"~",
        b"*",
    ),
    *(
        b"**",
        b"9999999",
        b"'a'",
        b"messages",
        b"loop",
        b".x",
        b"__class__",
        b"%",
        b"format",
        b"join",
        b"recursive",
        b"()",
    ),
]


def files(directory: Path) -> list[Target]:
    """A target for each kind, which all write below `directory`."""
    model = make_model("llama")
    config = json.loads(model.config.to_json_string())
    write_safetensors_seed(directory / "seed.safetensors")
    sources = {
        "safetensors": (directory / "seed.safetensors").read_bytes(),
        "gguf": write_gguf(model, directory / "seed.gguf").read_bytes(),
        "config": json.dumps(
            config
            | {
                "architectures": ["LlamaForCausalLM"],
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 2.0,
                    "original_max_position_embeddings": 64,
                    "rope_theta": 1e4,
                },
            }
        ).encode(),
        "tokenizer": byte_tokenizer().to_str().encode(),
    }
    gguf_header_bytes = sources["gguf"].index(b"output_norm.weight") + 5000
    documents = {
        "generation_config.json": (b'{"eos_token_id": [1, 2], "temperature": 0.5, "do_sample": true}', _read_defaults),
        "model.safetensors.index.json": (
            b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}',
            _read_tensors,
        ),
        "tokenizer_config.json": (b'{"bos_token": {"content": "<s>"}, "eos_token": "x"}', _read_template),
        "manifest.json": (
            b'{"format_version": 1, "source": "x", "name": "m", "files": [{"name": "config.json", "size_bytes": 2, '
            b'"sha256": "00"}], "created_at": "2026-01-01T00:00:00+00:00"}',
            _read_snapshot,
        ),
    }
    small = partial(_target, directory=directory)
    return [
        small("safetensors", 90, sources["safetensors"], _binary(400), SINGLE_FILE, _read_tensors),
        small("gguf", 20, sources["gguf"], _binary(gguf_header_bytes), "m.gguf", _read_gguf),
        small("config.json", 110, sources["config"], mutated_json, "config.json", _read_config),
        small("tokenizer.json", 60, sources["tokenizer"], mutated_json, "tokenizer.json", _read_tokenizer),
        *(small(name, 25, seed, mutated_json, name, read) for name, (seed, read) in documents.items()),
        Target(
            name="chat_template",
            share=30,
            seeds=[_TEMPLATE.encode()],
            mutate=partial(mutated_bytes, pieces=_TEMPLATE_PIECES),
            run=_render,
            expected=(SnapshotError, InvalidRequestError),
        ),
    ]


def write_safetensors_seed(path: Path) -> None:
    """A small file of three tensors."""
    specs = [
        TensorSpec("a", torch.float32, (2, 3)),
        TensorSpec("b.c", torch.float16, (4,)),
        TensorSpec("d", torch.uint8, ()),
    ]
    tensors = [(spec.name, torch.zeros(spec.shape, dtype=spec.dtype)) for spec in specs]
    write_safetensors(path, specs, tensors, lambda _: None)


def _binary(header_bytes: int) -> Callable[[random.Random, bytes], bytes]:
    return partial(mutated_binary, header_bytes=header_bytes)


def _target(
    name: str,
    share: int,
    seed: bytes,
    mutate: Callable[[random.Random, bytes], bytes],
    file: str,
    read: Callable[[Path], object],
    *,
    directory: Path,
) -> Target:
    place = directory / name.partition(".")[0]
    place.mkdir(exist_ok=True)
    (place / "config.json").write_bytes(b"{}")
    (place / "chat_template.jinja").write_bytes(b"{{ bos_token }}{{ messages[0].content }}")

    def run(data: bytes) -> str:
        (place / file).write_bytes(data)
        read(place)
        return "ok"

    return Target(
        name=name, share=share, seeds=[seed], mutate=mutate, run=run, expected=(SnapshotError, ConfigurationError)
    )


def _read_tensors(directory: Path) -> None:
    for _, tensor in iter_tensors(directory):
        assert tensor.numel() * tensor.element_size() <= 1 << 20


def _read_gguf(directory: Path) -> None:
    path = directory / "m.gguf"
    try:
        file = GgufFile(path)
        config_of(file), generation_config_of(file)
        specs = file.specs
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # as write_from_gguf has it
        raise SnapshotError("its metadata cannot be understood") from error
    for spec, (name, tensor) in zip(specs, file.tensors(), strict=True):
        assert (spec.name, spec.shape) == (name, tuple(tensor.shape))


def _read_config(directory: Path) -> None:
    for number, _ in enumerate(parameters(read_config(directory))):
        assert number < 1 << 20


def _read_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer(directory)
    tokens = tokenizer.encode("Hi <|end|> there\0é", add_special_tokens=True)
    stream = TextStream(tokenizer, [])
    text = "".join(map(stream.push, tokens)) + stream.flush()
    text.encode()
    assert tokenizer.bound is None or tokenizer.bound.fewest_tokens("Hi") <= 2


def _read_defaults(directory: Path) -> None:
    read_generation_defaults(directory)


def _read_template(directory: Path) -> None:
    template = read_chat_template(directory)
    assert template is not None
    template.render([{"role": "user", "content": "Hi"}])


def _read_snapshot(directory: Path) -> None:
    open_snapshot(directory)


def _render(data: bytes) -> str:
    template = ChatTemplate(data.decode(errors="replace"), {"bos_token": "<s>"})
    template.render([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], tools=[{"a": 1}])
    return "ok"
