from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from handler.engine.config import read_config
from handler.engine.quantised import quantised_specs, quantised_tensors
from handler.engine.snapshot import QUANTISED_FILE, Snapshot, find_snapshot, verify_checksums
from handler.engine.weights.quantised import read_quantised
from handler.engine.weights.safetensors import iter_tensors
from handler.errors import CorruptSnapshotError, SnapshotError
from handler.prepare.preparation import prepare
from handler.prepare.progress import NoProgress
from tests.prepare.recorder import Recorder
from tests.tiny_models import make_model, save_model


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_model(make_model("llama-biases"), tmp_path / "tiny")


def prepared(directory: Path, *, with_int8: bool = True) -> Snapshot:
    return prepare(str(directory), directory.parent / "home", NoProgress(), with_int8=with_int8)


def test_the_file_holds_what_would_be_made_at_a_start(directory: Path) -> None:
    snapshot = prepared(directory)
    verify_checksums(snapshot)
    config = read_config(snapshot.directory)
    stored = read_quantised(snapshot.directory, quantised_specs(config))
    made = dict(quantised_tensors(config, iter_tensors(snapshot.directory)))
    assert stored is not None
    assert stored.keys() == made.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in made.items())


def test_weights_begin_at_cache_lines(directory: Path) -> None:
    config = read_config(directory)
    offset = 0
    for spec in quantised_specs(config):
        if spec.name.endswith(".weight"):
            assert offset % 64 == 0
        offset += spec.size_bytes


def test_it_is_left_out_where_nobody_wants_it_and_added_when_somebody_does(directory: Path) -> None:
    without = prepared(directory, with_int8=False)
    assert not (without.directory / QUANTISED_FILE).exists()
    assert read_quantised(without.directory, []) is None
    recorder = Recorder()
    snapshot = prepare(str(directory), directory.parent / "home", recorder)
    assert "quantising the weights to int8" in recorder.steps
    assert snapshot == find_snapshot(str(directory), directory.parent / "home")
    assert [file.name for file in snapshot.manifest.files if file not in without.manifest.files] == [QUANTISED_FILE]
    verify_checksums(snapshot)
    assert prepared(directory) == snapshot


def test_it_is_added_to_a_snapshot_that_is_served_from_its_own_directory(directory: Path) -> None:
    without = prepared(directory, with_int8=False)
    elsewhere = directory.parent / "elsewhere"
    assert prepare(str(without.directory), elsewhere, NoProgress(), with_int8=False) == without
    recorder = Recorder()
    snapshot = prepare(str(without.directory), elsewhere, recorder)
    added = snapshot.size_bytes - without.size_bytes
    assert added == (without.directory / QUANTISED_FILE).stat().st_size
    assert recorder.steps == [
        "checking the snapshot that is there",
        "quantising the weights to int8",
        "taking checksums",
    ]
    verify_checksums(snapshot)
    assert prepare(str(without.directory), elsewhere, NoProgress()) == snapshot
    assert not elsewhere.exists()


def test_a_snapshot_that_cannot_be_written_says_what_it_lacks(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = prepared(directory, with_int8=False)
    monkeypatch.setattr("handler.prepare.int8.write_safetensors", _read_only)
    with pytest.raises(SnapshotError, match=r"holds no int8 weights, .*Read-only file system .*QUANTIZATION=none"):
        prepare(str(without.directory), directory.parent / "home", NoProgress())
    assert prepare(str(without.directory), directory.parent / "home", NoProgress(), with_int8=False) == without


def _read_only(path: Path, *_: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_a_file_of_another_model_is_refused_with_its_name(directory: Path) -> None:
    snapshot = prepared(directory)
    other = read_config(save_model(make_model("qwen3"), directory.parent / "other"))
    with pytest.raises(CorruptSnapshotError, match=f"{QUANTISED_FILE} does not hold the tensors of this model"):
        read_quantised(snapshot.directory, quantised_specs(other))


def test_a_damaged_file_is_refused_with_its_name(directory: Path) -> None:
    path = prepared(directory).directory / QUANTISED_FILE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptSnapshotError, match=f"{QUANTISED_FILE} is damaged"):
        read_quantised(path.parent, quantised_specs(read_config(path.parent)))
