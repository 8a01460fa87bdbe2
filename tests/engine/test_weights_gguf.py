from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from handler.engine.weights import gguf as weights
from handler.engine.weights.gguf import GgufFile
from handler.errors import CorruptSnapshotError, SnapshotError, UnsupportedModelError
from tests.prepare.gguf_files import write_gguf
from tests.tiny_models import make_model

VARIANTS = [
    "llama",
    "llama-tied",
    "llama-biases",
    "llama-head-dim",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3-tied-biases",
]


def read(path: Path) -> dict[str, torch.Tensor]:
    file = GgufFile(path)
    tensors = dict(file.tensors())
    for spec in file.specs:
        assert (tensors[spec.name].dtype, tuple(tensors[spec.name].shape)) == (spec.dtype, spec.shape)
    assert [spec.name for spec in file.specs] == list(tensors)
    return tensors


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tensor_comes_back_exactly(tmp_path: Path, variant: str) -> None:
    model = make_model(variant)
    tensors = read(write_gguf(model, tmp_path / "m.gguf"))
    expected = model.state_dict()
    if model.config.tie_word_embeddings:
        del expected["lm_head.weight"]
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "dtype"), [(Kind.F16, torch.float16), (Kind.BF16, torch.bfloat16)])
def test_half_precision_stays_as_it_is(tmp_path: Path, kind: Kind, dtype: torch.dtype) -> None:
    model = make_model("llama")
    tensors = read(write_gguf(model, tmp_path / "m.gguf", kind=kind))
    name = "model.layers.1.self_attn.q_proj.weight"
    torch.testing.assert_close(tensors[name], model.state_dict()[name].to(dtype), rtol=0, atol=0)
    assert tensors["model.norm.weight"].dtype == torch.float32


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_1])
@pytest.mark.parametrize("at_once_bytes", [1, 64 << 20])
def test_quantised_tensors_become_float16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, at_once_bytes: int
) -> None:
    monkeypatch.setattr(weights, "_ROWS_BYTES", at_once_bytes)
    model = make_model("qwen2")
    tensors = read(write_gguf(model, tmp_path / "m.gguf", kind=kind))
    for name in ("model.embed_tokens.weight", "model.layers.2.mlp.down_proj.weight"):
        stored = gguf.quants.quantize(model.state_dict()[name].numpy(), kind)
        expected = torch.from_numpy(gguf.quants.dequantize(stored, kind)).to(torch.float16)
        torch.testing.assert_close(tensors[name], expected, rtol=0, atol=0)


@pytest.mark.parametrize("value", [1e6, -1e6, float("nan")])
def test_a_value_that_does_not_fit_float16_is_refused(tmp_path: Path, value: float) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = value
    with np.errstate(all="ignore"):
        path = write_gguf(model, tmp_path / "m.gguf", kind=Kind.Q8_0)
    with pytest.raises(SnapshotError, match=r"layers\.1\.mlp\.up_proj\.weight' holds values"):
        read(path)


def test_wide_dtypes_come_first_so_that_all_are_aligned(tmp_path: Path) -> None:
    widths = [
        spec.dtype.itemsize
        for spec in GgufFile(write_gguf(make_model("llama"), tmp_path / "m.gguf", kind=Kind.F16)).specs
    ]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 2


def test_a_tensor_that_has_no_place_is_refused_by_name(tmp_path: Path) -> None:
    extra = {"blk.0.attn_sinks.weight": np.ones(4, dtype=np.float32)}
    path = write_gguf(make_model("llama"), tmp_path / "m.gguf", extra_tensors=extra)
    with pytest.raises(SnapshotError, match=r"'blk\.0\.attn_sinks\.weight' has no place in 'llama'"):
        GgufFile(path)


@pytest.mark.parametrize("left_out", ["model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight"])
def test_a_tensor_that_is_missing_is_named(tmp_path: Path, left_out: str) -> None:
    path = write_gguf(make_model("llama"), tmp_path / "m.gguf", left_out=left_out)
    with pytest.raises(CorruptSnapshotError, match=f"no tensor for {left_out}"):
        GgufFile(path)


def test_norms_of_another_architecture_are_refused(tmp_path: Path) -> None:
    extra = {"blk.0.attn_q_norm.weight": np.ones(16, dtype=np.float32)}
    path = write_gguf(make_model("qwen2"), tmp_path / "m.gguf", extra_tensors=extra)
    with pytest.raises(SnapshotError, match=r"attn_q_norm\.weight"):
        GgufFile(path)


def test_an_unknown_architecture_names_the_known_ones(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match="'gemma2'; known: llama, qwen2, qwen3"):
        GgufFile(tmp_path / "m.gguf")


def test_one_part_of_several_is_refused(tmp_path: Path) -> None:
    path = write_gguf(make_model("llama"), tmp_path / "m.gguf", metadata={"split.count": 3})
    with pytest.raises(SnapshotError, match="one of several parts"):
        GgufFile(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.05, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    path = write_gguf(make_model("llama"), tmp_path / "m.gguf")
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CorruptSnapshotError, match=r"m\.gguf"):
        GgufFile(path)


def test_another_file_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"\x80\x02}q" * 100)
    with pytest.raises(CorruptSnapshotError, match="no intact GGUF"):
        GgufFile(tmp_path / "m.gguf")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"m\.gguf cannot be read"):
        GgufFile(tmp_path / "m.gguf")
