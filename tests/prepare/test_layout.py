from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from handler.engine.snapshot import Snapshot
from handler.engine.weights.safetensors import check_headers
from handler.errors import CorruptSnapshotError, SnapshotError
from handler.prepare.preparation import prepare
from handler.prepare.progress import NoProgress
from tests.tiny_models import byte_tokenizer, make_model, save_model


def prepared(directory: Path) -> Snapshot:
    return prepare(str(directory), directory.parent / "home", NoProgress(), force=True)


def read(directory: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((directory / name).read_bytes())
    return document


def write(directory: Path, name: str, value: object) -> None:
    (directory / name).write_text(json.dumps(value))


def test_weights_are_hard_links_and_the_rest_is_copied(model_directory: Path) -> None:
    snapshot = prepared(model_directory)
    for path in snapshot.directory.glob("model*.safetensors"):
        assert path.samefile(model_directory / path.name)
    for name in ("config.json", "tokenizer.json", "generation_config.json", "model.safetensors.index.json"):
        assert (snapshot.directory / name).read_bytes() == (model_directory / name).read_bytes()
        assert not (snapshot.directory / name).samefile(model_directory / name)


def test_weights_are_copied_where_links_cannot_be_made(model_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    snapshot = prepared(model_directory)
    for path in snapshot.directory.glob("model*.safetensors"):
        assert path.read_bytes() == (model_directory / path.name).read_bytes()
        assert not path.samefile(model_directory / path.name)


def test_links_are_followed_to_the_weights(model_directory: Path) -> None:
    """The hub's cache holds symbolic links, which would point nowhere from a snapshot."""
    shard = next(model_directory.glob("*.safetensors"))
    blob = shard.rename(model_directory.parent / "blob")
    shard.symlink_to("../blob")
    snapshot = prepared(model_directory)
    assert not (snapshot.directory / shard.name).is_symlink()
    assert (snapshot.directory / shard.name).samefile(blob)


def test_pickled_weights_are_refused_by_name(model_directory: Path) -> None:
    for path in model_directory.glob("model*"):
        path.unlink()
    (model_directory / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(SnapshotError, match=r"pickled weights only \(pytorch_model\.bin\)"):
        prepared(model_directory)


@pytest.mark.parametrize(
    ("left", "message"),
    [("x.gguf", r"name the path of one, such as x\.gguf"), ("README.md", r"neither model\.safetensors nor")],
)
def test_a_directory_without_weights_says_what_is_missing(model_directory: Path, left: str, message: str) -> None:
    for path in model_directory.glob("model*"):
        path.unlink()
    (model_directory / left).write_bytes(b"")
    with pytest.raises(SnapshotError, match=message):
        prepared(model_directory)


def test_a_missing_shard_is_refused(model_directory: Path) -> None:
    shard = max(model_directory.glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(CorruptSnapshotError, match=f"{shard.name} is missing"):
        prepared(model_directory)


def test_a_truncated_shard_is_refused(model_directory: Path) -> None:
    shard = max(model_directory.glob("*.safetensors"))
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(CorruptSnapshotError, match=f"{shard.name} is damaged"):
        prepared(model_directory)


@pytest.mark.parametrize(("name", "text"), [("config.json", "{"), ("generation_config.json", "[]")])
def test_a_malformed_file_is_refused_by_name(model_directory: Path, name: str, text: str) -> None:
    (model_directory / name).write_text(text)
    with pytest.raises(SnapshotError, match=name):
        prepared(model_directory)


def test_a_model_that_transformers_runs_is_prepared(tmp_path: Path) -> None:
    source = save_model(make_model("gemma2"), tmp_path / "gemma")
    snapshot = prepared(source)
    assert snapshot.name == "gemma"
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (snapshot.directory / name).read_bytes() == (source / name).read_bytes()


def test_a_model_that_nothing_can_run_is_refused_by_name(model_directory: Path) -> None:
    mamba = transformers.MambaConfig(architectures=["MambaForCausalLM"])
    mamba.save_pretrained(model_directory)
    with pytest.raises(SnapshotError, match="MambaForCausalLM cannot be served: it keeps a state"):
        prepared(model_directory)


def test_a_directory_without_config_is_no_model(model_directory: Path) -> None:
    (model_directory / "config.json").unlink()
    with pytest.raises(SnapshotError, match=r"has no config\.json"):
        prepared(model_directory)


def test_a_missing_generation_config_is_made_of_the_config(model_directory: Path) -> None:
    (model_directory / "generation_config.json").unlink()
    directory = prepared(model_directory).directory
    assert read(directory, "generation_config.json") == {"bos_token_id": 257, "eos_token_id": 258}


def test_special_tokens_are_named_by_the_ids_of_the_config(model_directory: Path) -> None:
    directory = prepared(model_directory).directory
    assert read(directory, "tokenizer_config.json") == {"bos_token": "<|start|>", "eos_token": "<|end|>"}


def test_special_tokens_of_another_file_are_added(model_directory: Path) -> None:
    write(model_directory, "tokenizer_config.json", {"eos_token": "<|pad|>", "model_max_length": 5})
    write(
        model_directory,
        "special_tokens_map.json",
        {"eos_token": "<|end|>", "bos_token": {"content": "<|start|>"}},
    )
    assert read(prepared(model_directory).directory, "tokenizer_config.json") == {
        "eos_token": "<|pad|>",
        "model_max_length": 5,
        "bos_token": {"content": "<|start|>"},
    }


def test_a_complete_tokenizer_config_is_kept_as_it_is(model_directory: Path) -> None:
    (model_directory / "tokenizer_config.json").write_text('{ "eos_token" :"<|end|>"}\n\n')
    copied = prepared(model_directory).directory / "tokenizer_config.json"
    assert copied.read_text() == '{ "eos_token" :"<|end|>"}\n\n'


TEMPLATES = {
    "chat_template.jinja": "from the file",
    "chat_template.json": {"chat_template": "from the object"},
    "tokenizer_config.json": {
        "chat_template": [
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "from the list"},
        ]
    },
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["chat_template.jinja", "chat_template.json", "tokenizer_config.json"], "from the file"),
        (["chat_template.json", "tokenizer_config.json"], "from the object"),
        (["tokenizer_config.json"], "from the list"),
        ([], None),
    ],
)
def test_the_chat_template_is_found(model_directory: Path, files: list[str], expected: str | None) -> None:
    for name in files:
        template = TEMPLATES[name]
        (model_directory / name).write_text(template if isinstance(template, str) else json.dumps(template))
    path = prepared(model_directory).directory / "chat_template.jinja"
    assert (path.read_text() if path.exists() else None) == expected


def test_a_template_that_is_no_text_is_refused_by_name(model_directory: Path) -> None:
    (model_directory / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(SnapshotError, match=r"chat_template\.jinja is not UTF-8"):
        prepared(model_directory)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ([{"name": "tool_use", "template": ""}], "tool_use, and none is called 'default'"),
        (3, "neither a text nor"),
    ],
)
def test_templates_without_a_default_are_refused(model_directory: Path, template: object, message: str) -> None:
    write(model_directory, "tokenizer_config.json", {"chat_template": template})
    with pytest.raises(SnapshotError, match=message):
        prepared(model_directory)


def as_slow_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()
    vocab = byte_tokenizer().get_vocab()
    del vocab["ÿ"]  # byte 255, which no text in UTF-8 holds
    write(directory, "vocab.json", vocab | {"ab": 255})
    (directory / "merges.txt").write_text("#version: 0.2\na b\n")
    special = {"bos_token": "<|start|>", "eos_token": "<|end|>", "unk_token": "<|end|>"}
    write(directory, "tokenizer_config.json", special | {"tokenizer_class": "GPT2Tokenizer"})


def test_a_slow_tokenizer_is_converted(model_directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    as_slow_tokenizer(model_directory)
    directory = prepared(model_directory).directory
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert tokenizer.encode("<|start|>cab ü").ids == [257, 99, 255, 32, 0xC3, 0xBC]
    assert read(directory, "tokenizer_config.json")["eos_token"] == "<|end|>"
    assert sorted(path.name for path in directory.glob("*token*")) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert capfd.readouterr() == ("", "")


def test_a_directory_without_tokenizer_is_one_line(model_directory: Path) -> None:
    (model_directory / "tokenizer.json").unlink()
    with pytest.raises(SnapshotError, match=r"tokenizer of .* cannot be converted") as caught:
        prepared(model_directory)
    assert "\n" not in str(caught.value)


def test_code_that_a_model_brings_is_never_run(model_directory: Path) -> None:
    as_slow_tokenizer(model_directory)
    mark = model_directory.parent / "ran"
    (model_directory / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass T: ...\n")
    auto_map = {"AutoTokenizer": ["evil.T", None]}
    write(model_directory, "tokenizer_config.json", {"tokenizer_class": "T", "auto_map": auto_map})
    with pytest.raises(SnapshotError, match="cannot be converted"):
        prepared(model_directory)
    assert not mark.exists()


def test_a_directory_that_moved_after_linking_leaves_the_snapshot_whole(model_directory: Path) -> None:
    snapshot = prepared(model_directory)
    shutil.rmtree(model_directory)
    check_headers(snapshot.directory)
