from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handler.engine.snapshot import (
    MANIFEST_FILE,
    find_snapshot,
    is_hub_id,
    snapshot_directory,
    verify_checksums,
)
from handler.errors import CorruptSnapshotError, SnapshotNotFoundError

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 9}


def write_snapshot(directory: Path, **changes: Any) -> Path:
    directory.mkdir(parents=True)
    for name, data in FILES.items():
        (directory / name).write_bytes(data)
    files = [
        {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in FILES.items()
    ]
    manifest = {
        "format_version": 1,
        "source": "a test",
        "name": "tiny",
        "files": files,
        "created_at": "2026-01-01",
    }
    (directory / MANIFEST_FILE).write_text(json.dumps(manifest | changes))
    return directory


def test_a_prepared_model_is_found_by_its_name(tmp_path: Path) -> None:
    directory = write_snapshot(snapshot_directory("org/tiny", tmp_path))
    snapshot = find_snapshot("org/tiny", tmp_path)
    assert snapshot.directory == directory
    assert snapshot.name == "tiny"
    assert snapshot.size_bytes == sum(len(data) for data in FILES.values())


def test_a_directory_with_a_manifest_is_used_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_snapshot(tmp_path / "baked")
    monkeypatch.chdir(tmp_path)
    assert find_snapshot(str(directory), tmp_path / "home").directory == directory
    assert find_snapshot("baked", tmp_path / "home").directory == directory


def test_a_model_that_is_not_prepared_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(SnapshotNotFoundError, match="pilotlight prepare org/tiny"):
        find_snapshot("org/tiny", tmp_path)


def test_a_directory_without_manifest_is_no_snapshot(tmp_path: Path) -> None:
    directory = write_snapshot(snapshot_directory("org/tiny", tmp_path))
    (directory / MANIFEST_FILE).unlink()
    with pytest.raises(SnapshotNotFoundError):
        find_snapshot("org/tiny", tmp_path)


def test_a_truncated_file_is_noticed_when_opened(tmp_path: Path) -> None:
    directory = write_snapshot(snapshot_directory("org/tiny", tmp_path))
    os.truncate(directory / "model.safetensors", 100)
    with pytest.raises(CorruptSnapshotError, match=r"model\.safetensors has 100 bytes"):
        find_snapshot("org/tiny", tmp_path)


def test_a_missing_file_is_noticed_when_opened(tmp_path: Path) -> None:
    directory = write_snapshot(snapshot_directory("org/tiny", tmp_path))
    (directory / "config.json").unlink()
    with pytest.raises(CorruptSnapshotError, match=r"config\.json is missing"):
        find_snapshot("org/tiny", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format 2"),
        ({"files": [{"name": "../x", "size_bytes": 1, "sha256": ""}]}, "no plain file name"),
        ({"files": [{"name": "x"}]}, "is no manifest"),
        ({"extra": 1}, "is no manifest"),
    ],
)
def test_a_manifest_that_cannot_be_believed_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_snapshot(snapshot_directory("org/tiny", tmp_path), **changes)
    (tmp_path / "snapshots" / "x").write_bytes(b"1")
    with pytest.raises(CorruptSnapshotError, match=message):
        find_snapshot("org/tiny", tmp_path)


def test_a_manifest_cut_short_is_refused(tmp_path: Path) -> None:
    directory = write_snapshot(snapshot_directory("org/tiny", tmp_path))
    os.truncate(directory / MANIFEST_FILE, 20)
    with pytest.raises(CorruptSnapshotError, match="is no manifest"):
        find_snapshot("org/tiny", tmp_path)


def test_checksums_find_one_flipped_bit(tmp_path: Path) -> None:
    directory = write_snapshot(snapshot_directory("org/tiny", tmp_path))
    snapshot = find_snapshot("org/tiny", tmp_path)
    read_bytes: list[int] = []
    verify_checksums(snapshot, read_bytes.append)
    assert sum(read_bytes) == snapshot.size_bytes
    data = bytearray(FILES["model.safetensors"])
    data[1000] ^= 1
    (directory / "model.safetensors").write_bytes(data)
    with pytest.raises(CorruptSnapshotError, match=r"model\.safetensors has SHA-256"):
        verify_checksums(find_snapshot("org/tiny", tmp_path))


def test_different_sources_never_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "local").mkdir(parents=True)
    names = ["smollm2-135m", "./smollm2-135m", "org/a", "org-a", "org--a", "/org/a", "org/a.gguf", "/x/org/a"]
    names += [
        "org/local",
        "org/local2",
        "a/b/c",
        "a--b--c",
        "../up",
        "~/up",
        "/",
        "ü/ß",
        "org/A b",
        ".hidden/x",
    ]
    directories = [snapshot_directory(name, tmp_path) for name in names]
    assert len(set(directories)) == len(names)
    for name, directory in zip(names, directories, strict=True):
        assert directory == snapshot_directory(name, tmp_path)
        assert directory.parent == tmp_path / "snapshots"
        assert directory.name.isascii()
        assert not directory.name.startswith(".")


def test_one_path_written_in_two_ways_is_one_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert snapshot_directory("./m", tmp_path) == snapshot_directory(str(tmp_path / "x" / ".." / "m"), tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/model", True),
        ("Qwen/Qwen2.5-0.5B", True),
        ("model", False),
        ("org/model.gguf", False),
        ("./org/model", False),
        ("../model", False),
        ("a/b/c", False),
        ("org/mo--del", False),
        ("org/mo..del", False),
        ("-org/model", False),
    ],
)
def test_what_counts_as_a_hub_id(name: str, expected: bool) -> None:
    assert is_hub_id(name) is expected


def test_serving_finds_snapshots_without_torch() -> None:
    code = "import sys, handler.engine.snapshot; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
