"""Models that say what cannot be are refused with the reason, before anything is made in the sizes that they state."""

from __future__ import annotations

import ast
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

import handler
from handler.boot import BootTimeline
from handler.engine.architecture import open_architecture
from handler.engine.chat_template import read_chat_template
from handler.engine.config import read_config
from handler.engine.loading import load_core
from handler.engine.options import EngineOptions
from handler.engine.snapshot import MANIFEST_FILE, Snapshot, open_snapshot
from handler.engine.weights.gguf import GgufFile
from handler.engine.weights.safetensors import INDEX_FILE, SINGLE_FILE, iter_tensors
from handler.errors import CorruptSnapshotError, SnapshotError, UnsupportedModelError
from handler.prepare.preparation import prepare
from handler.prepare.progress import NoProgress
from tests.prepare.gguf_files import write_gguf
from tests.tiny_models import make_model

HUGE = 2**60


def safetensors_file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(kind: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        safetensors_file(b"{}", length=2**63),
        safetensors_file(b"{}", length=100),
        safetensors_file(b"[" * 100_000),
        safetensors_file(one("F32", [4], 0, 16)),
        safetensors_file(one("F32", [4], 0, 8), bytes(8)),
        safetensors_file(one("F32", [2**62, 4], 0, 0)),
        safetensors_file(one("F32", [2**32, 2**32], 0, 0)),
        safetensors_file(one("F32", [0, 2**63], 0, 0)),
        safetensors_file(one("F32", [1], 4, 0), bytes(4)),
        safetensors_file(one("U8", [1], 1, 2), bytes(2)),
        safetensors_file(one("U8", [1], 0, 1), bytes(2)),
        safetensors_file({**one("U8", [2], 0, 2), "b": one("U8", [2], 1, 3)["a"]}, bytes(3)),
    ],
)
def test_safetensors_that_cannot_be(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SINGLE_FILE).write_bytes(content)
    with pytest.raises(CorruptSnapshotError, match=r"model\.safetensors is damaged"):
        list(iter_tensors(tmp_path))


def test_a_damaged_checkpoint_is_noticed_where_its_int8_form_is_served(tiny_served: Snapshot, tmp_path: Path) -> None:
    directory = tmp_path / "damaged"
    shutil.copytree(tiny_served.directory, directory)
    snapshot = Snapshot(directory, tiny_served.name, tiny_served.manifest)
    options = EngineOptions(device="cpu", quantization="int8")
    load_core(snapshot, options, BootTimeline())
    with (directory / SINGLE_FILE).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CorruptSnapshotError, match=r"model\.safetensors is damaged"):
        load_core(snapshot, options, BootTimeline())


@pytest.fixture(scope="module")
def good_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(make_model("llama"), tmp_path_factory.mktemp("gguf") / "good.gguf").read_bytes()


def at(content: bytes, marker: bytes, offset: int, form: str, value: int) -> bytes:
    """The content with another number at `offset` behind the marker's first occurrence."""
    position = content.index(marker) + len(marker) + offset
    new = struct.pack(form, value)
    return content[:position] + new + content[position + len(new) :]


TOKENS = b"tokenizer.ggml.tokens"  # then: type of the value, type of the elements, their count, the first's length
NORM = b"output_norm.weight"  # then: number of dimensions, the dimensions, type, offset


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda good: b"", "cannot mmap|empty"),
        (lambda good: b"GGML" + good[4:], "begin with GGUF"),
        (lambda good: good[:100], "ends within its header"),
        (lambda good: good[:-4000], "ends behind the file"),
        (lambda good: good[:8] + struct.pack("<Q", HUGE) + good[16:], "tensors"),
        (lambda good: good[:16] + struct.pack("<Q", HUGE) + good[24:], "keys"),
        (lambda good: good[:8] + struct.pack("<Q", 60_000) + good[16:], "ends within|dimensions|unknown type"),
        (lambda good: at(good, TOKENS, 8, "<Q", HUGE), "elements"),
        (lambda good: at(good, TOKENS, 8, "<Q", 1 << 22), "elements|ends within"),
        (lambda good: at(good, TOKENS, 16, "<Q", HUGE), "ends within its header"),
        (lambda good: at(good, TOKENS, 4, "<I", 9), "no value of type 9"),
        (lambda good: at(good, TOKENS, 0, "<I", 99), "no value of type 99"),
        (lambda good: at(good, NORM, 0, "<I", 2**31), "dimensions"),
        (lambda good: at(good, NORM, 0, "<I", 0), "dimensions"),
        (lambda good: at(good, NORM, 4, "<Q", HUGE), "ends behind the file"),
        (lambda good: at(good, NORM, 4, "<Q", 0), "shape"),
        (lambda good: at(good, NORM, 12, "<I", 4999), "unknown type"),
        (lambda good: at(good, NORM, 16, "<Q", HUGE), "ends behind the file"),
        (lambda good: at(good, NORM, 16, "<Q", 1), "not aligned"),
        (lambda good: at(good, NORM, 16, "<Q", 0), "over another"),
    ],
)
def test_gguf_that_cannot_be(tmp_path: Path, good_gguf: bytes, damage: Callable[[bytes], bytes], reason: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(damage(good_gguf))
    with pytest.raises(CorruptSnapshotError, match=reason):
        GgufFile(path)


@pytest.mark.parametrize("alignment", [0, 3, 2**31])
def test_gguf_with_an_alignment_that_cannot_be(tmp_path: Path, alignment: int) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint32("general.alignment", alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CorruptSnapshotError, match=f"alignment is {alignment}"):
        GgufFile(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.block_count": HUGE},
        {"llama.attention.head_count": 0},
        {"llama.attention.head_count": 65284},
        {"llama.attention.head_count_kv": 5},
        {"llama.block_count": "many"},
        {"llama.rope.freq_base": "x"},
        {"split.count": "several"},
        {"llama.context_length": [1, 2]},
        {"tokenizer.ggml.bos_token_id": "start"},
    ],
)
def test_gguf_with_metadata_of_another_kind(tmp_path: Path, metadata: dict[str, Any]) -> None:
    path = write_gguf(make_model("llama"), tmp_path / "m.gguf", metadata={})
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(tmp_path / "n.gguf", "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            value = metadata.get(field.name, field.contents())
            if isinstance(value, list):
                writer.add_array(field.name, value)
            else:
                kind = field.types[0] if field.name not in metadata else gguf.GGUFValueType.get_type(value)
                kind = gguf.GGUFValueType.UINT64 if value == HUGE else kind
                writer.add_key_value(field.name, value, kind)
    for name in metadata.keys() - reader.fields.keys():
        writer.add_key_value(name, metadata[name], gguf.GGUFValueType.get_type(metadata[name]))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SnapshotError):
        prepare(str(tmp_path / "n.gguf"), tmp_path / "home", NoProgress())


def configured(served: Snapshot, directory: Path, **changes: object) -> Path:
    config = json.loads((served.directory / "config.json").read_bytes())
    (directory / "config.json").write_text(json.dumps(config | changes))
    return directory


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 10**12),
        ("vocab_size", HUGE),
        ("num_hidden_layers", HUGE),
        ("num_hidden_layers", 10**6),
        ("num_hidden_layers", -1),
        ("intermediate_size", 10**100),
        ("num_key_value_heads", 10**9),
        ("head_dim", 10**9),
        ("max_position_embeddings", 10**10),
    ],
)
def test_absurd_sizes(tiny_served: Snapshot, tmp_path: Path, architecture: str, name: str, value: int) -> None:
    directory = configured(tiny_served, tmp_path, architectures=[architecture], **{name: value})
    with pytest.raises(CorruptSnapshotError, match=f"{name} is {value}"):
        open_architecture(directory, BootTimeline())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 0),
        ("num_attention_heads", 0),
        ("num_attention_heads", "many"),
        ("num_hidden_layers", "9000000"),
        ("vocab_size", "99999999999"),
        ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4, "factor": 1e300}),
        ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4, "factor": 1e9}),
        ("rope_parameters", 7),
        ("architectures", 7),
        ("architectures", {"a": 1}),
    ],
)
def test_a_configuration_that_cannot_be(tiny_served: Snapshot, tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises((CorruptSnapshotError, UnsupportedModelError)):
        read_config(configured(tiny_served, tmp_path, **{name: value}))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff", b'{"a": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000, b"NaN"]
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_documents_that_are_none(tiny_served: Snapshot, tmp_path: Path, name: str, content: bytes) -> None:
    directory = tmp_path / "snapshot"
    shutil.copytree(tiny_served.directory, directory)
    (directory / name).write_bytes(content)
    with pytest.raises(CorruptSnapshotError, match=name):
        load_core(Snapshot(directory, "m", tiny_served.manifest), EngineOptions(device="cpu"), BootTimeline())


def test_a_document_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(CorruptSnapshotError, match="8589934592 bytes"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "template",
    [b"\xff", b"{% for %}", b"{{ " + b"(" * 10_000 + b" }}", b"{% if a %}" * 10_000, b"{{ 1" + b"+1" * 20_000 + b" }}"],
)
def test_a_template_that_is_none(tiny_served: Snapshot, tmp_path: Path, template: bytes) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(template)
    with pytest.raises(CorruptSnapshotError):
        read_chat_template(tmp_path)


@pytest.mark.parametrize(
    "name", ["a\0.safetensors", f"{'a' * 300}.safetensors", "../a.safetensors", "", f"{'é' * 150}.safetensors"]
)
def test_names_of_directories(tmp_path: Path, name: str) -> None:
    refuse_name(tmp_path, name)


def refuse_name(tmp_path: Path, name: str) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CorruptSnapshotError, match="no plain safetensors file name"):
        list(iter_tensors(tmp_path))
    file = {"name": name, "size_bytes": 1, "sha256": ""}
    manifest = {"format_version": 1, "source": "", "name": "", "files": [file], "created_at": ""}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(CorruptSnapshotError, match="no plain file name"):
        open_snapshot(tmp_path)


PICKLES = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
PICKLED = {"load", "loads", "Unpickler"}
FILES = sorted(Path(handler.__file__).parent.rglob("*.py"))


def test_nothing_that_runs_code_of_a_file_is_reachable() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.partition(".")[0] for alias in node.names} & set(PICKLES), path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in PICKLES, path
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "hub"), ("torch", "jit")}, path
                assert (node.value.id, node.attr) not in {(name, "load") for name in ("np", "numpy")}, path
            elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, path


def test_pickled_weights_alone_are_refused(tiny_served: Snapshot, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_served.directory, source)
    for name in ("manifest.json", SINGLE_FILE, "int8.safetensors"):
        (source / name).unlink()
    (source / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(SnapshotError, match=r"pickled weights only \(pytorch_model\.bin\)"):
        prepare(str(source), tmp_path / "home", NoProgress())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "TheirOwnModel"])
@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_code_that_a_model_brings_never_runs(
    tiny_served: Snapshot, tmp_path: Path, architecture: str, with_tokenizer: bool
) -> None:
    source, ran = tmp_path / "source", tmp_path / "ran"
    shutil.copytree(tiny_served.directory, source)
    (source / "manifest.json").unlink()
    if not with_tokenizer:
        (source / "tokenizer.json").unlink()
    (source / "theirs.py").write_text(f"open({str(ran)!r}, 'w')\nclass Theirs: pass\n")
    auto_map = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "theirs.Theirs")
    config = json.loads((source / "config.json").read_bytes())
    config |= {"architectures": [architecture], "auto_map": auto_map}
    if architecture == "TheirOwnModel":
        config["model_type"] = "theirs"
    (source / "config.json").write_text(json.dumps(config))
    tokens = {"auto_map": {"AutoTokenizer": ["theirs.Theirs", "theirs.Theirs"]}, "tokenizer_class": "Theirs"}
    (source / "tokenizer_config.json").write_text(json.dumps(tokens))
    try:
        snapshot = prepare(str(source), tmp_path / "home", NoProgress())
    except SnapshotError:
        assert architecture == "TheirOwnModel" or not with_tokenizer
    else:
        load_core(snapshot, EngineOptions(device="cpu"), BootTimeline())
    assert not ran.exists()
