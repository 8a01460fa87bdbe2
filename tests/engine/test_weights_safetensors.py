from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from handler.engine.weights.safetensors import check_headers, iter_tensors, shard_names
from handler.errors import CorruptSnapshotError

SHARDS = {
    "model-00001-of-00002.safetensors": {
        "a.weight": torch.arange(6.0).reshape(2, 3),
        "b.bias": torch.ones(4),
    },
    "model-00002-of-00002.safetensors": {"c.weight": torch.full((5, 2), 0.5, dtype=torch.bfloat16)},
}
TENSORS = {name: tensor for shard in SHARDS.values() for name, tensor in shard.items()}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    for shard, tensors in SHARDS.items():
        save_file(tensors, tmp_path / shard)
    write_index(tmp_path, {name: shard for shard, tensors in SHARDS.items() for name in tensors})
    return tmp_path


def write_index(directory: Path, weight_map: dict[str, str]) -> None:
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )


def assert_streams_everything(directory: Path) -> None:
    streamed = list(iter_tensors(directory))
    assert sorted(name for name, _ in streamed) == sorted(TENSORS)
    for name, tensor in streamed:
        assert tensor.dtype == TENSORS[name].dtype
        torch.testing.assert_close(tensor, TENSORS[name], rtol=0, atol=0)


def test_a_single_file_streams_every_tensor(single: Path) -> None:
    assert_streams_everything(single)


def test_shards_stream_every_tensor(sharded: Path) -> None:
    assert shard_names(sharded) == sorted(SHARDS)
    assert_streams_everything(sharded)


def test_tensors_are_mapped_and_not_read(single: Path) -> None:
    held = dict(iter_tensors(single))
    address = held["a.weight"].data_ptr()
    mappings = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(single) in line]
    spans = [tuple(int(end, 16) for end in mapping[0].split("-")) for mapping in mappings]
    assert any(start <= address < end for start, end in spans)


@pytest.mark.parametrize("kept_bytes", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_named_before_any_tensor_comes(single: Path, kept_bytes: int) -> None:
    path = single / "model.safetensors"
    os.truncate(path, kept_bytes if kept_bytes >= 0 else path.stat().st_size - 1)
    with pytest.raises(CorruptSnapshotError, match=r"model\.safetensors is damaged"):
        next(iter_tensors(single))


@pytest.mark.parametrize("position", [0, 4, 7, 8])
def test_a_flipped_bit_in_the_header_is_named(single: Path, position: int) -> None:
    path = single / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(CorruptSnapshotError, match=r"model\.safetensors is damaged"):
        next(iter_tensors(single))


def test_the_last_shard_is_checked_before_the_first_tensor_comes(sharded: Path) -> None:
    os.truncate(sharded / "model-00002-of-00002.safetensors", 50)
    with pytest.raises(CorruptSnapshotError, match="model-00002"):
        next(iter_tensors(sharded))


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CorruptSnapshotError, match=r"model-00001-of-00002\.safetensors is missing"):
        next(iter_tensors(sharded))


def test_a_tensor_that_only_the_index_knows_is_named(sharded: Path) -> None:
    places = {name: shard for shard, tensors in SHARDS.items() for name in tensors}
    write_index(sharded, places | {"d.weight": "model-00001-of-00002.safetensors"})
    with pytest.raises(CorruptSnapshotError, match=r"d\.weight"):
        check_headers(sharded)


def test_a_tensor_that_the_index_does_not_know_is_named(sharded: Path) -> None:
    places = {name: shard for shard, tensors in SHARDS.items() for name in tensors}
    del places["b.bias"]
    write_index(sharded, places)
    with pytest.raises(CorruptSnapshotError, match=r"b\.bias"):
        check_headers(sharded)


def test_a_tensor_in_two_shards_is_named(sharded: Path) -> None:
    save_file(TENSORS, sharded / "model-00002-of-00002.safetensors")
    with pytest.raises(CorruptSnapshotError, match=r"'a\.weight' is in"):
        check_headers(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/model.safetensors", "model.bin"])
def test_an_index_cannot_lead_outside(sharded: Path, shard: str) -> None:
    write_index(sharded, {"a.weight": shard})
    with pytest.raises(CorruptSnapshotError, match="no plain safetensors file name"):
        shard_names(sharded)


def test_an_index_that_is_no_index_is_named(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(CorruptSnapshotError, match="is no index"):
        next(iter_tensors(sharded))


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptSnapshotError, match=r"neither model\.safetensors nor"):
        next(iter_tensors(tmp_path))
