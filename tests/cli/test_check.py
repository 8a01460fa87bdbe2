from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from handler.__main__ import main
from handler.engine.native.library import load_kernels
from handler.engine.snapshot import Snapshot
from handler.settings import Settings

SUBJECTS = ["device", "snapshot", "model", "database", "spool"]


@pytest.fixture(autouse=True)
def good_environment(tiny_served: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PILOTLIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODEL_NAME", str(tiny_served.directory))
    monkeypatch.setenv("MODEL_DEVICE", "cpu")
    monkeypatch.setenv("DATABASE_URL", "none")


def check(capsysbinary: pytest.CaptureFixture[bytes], code: int) -> dict[str, Any]:
    """The report; every subject must be looked at, whatever was found before."""
    assert main(["check", "--json"]) == code
    report: dict[str, Any] = json.loads(capsysbinary.readouterr().out)
    assert [finding["subject"] for finding in report["findings"]] == SUBJECTS
    assert all(finding["is_good"] for finding in report["findings"]) == (code == 0)
    return report | {finding["subject"]: finding for finding in report["findings"]}


def test_all_is_good(
    capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTIZATION", "int8")
    report = check(capsysbinary, 0)
    assert set(report["settings"]) == {field.upper() for field in Settings.__struct_fields__}
    assert "checksums good" in report["snapshot"]["detail"]
    assert report["model"]["detail"].startswith(
        "llama: LlamaForCausalLM on cpu, float32, quantization int8, 1024 tokens"
    )
    assert report["spool"]["detail"].startswith(str(tmp_path / "home" / "spool"))
    assert report["spool"]["detail"].endswith(" GiB free")


def test_the_device_is_named_and_a_missing_one_is_wrong(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    detail = check(capsysbinary, 0)["device"]["detail"]
    kernels = load_kernels()
    found = re.escape(f"int8 kernels for {kernels.instructions}") if kernels else r"no int8 kernels \(.+\)"
    assert re.fullmatch(rf"cpu \(\d+ threads\), float32, {found}, \d+\.\d GiB free, torch .+", detail)
    monkeypatch.setenv("MODEL_DEVICE", "cuda:77")
    report = check(capsysbinary, 1)
    assert not report["device"]["is_good"]
    assert report["device"]["detail"].startswith("MODEL_DEVICE: cuda:77")


def test_a_model_that_is_not_prepared(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODEL_NAME", str(tmp_path / "missing"))
    report = check(capsysbinary, 1)
    assert not report["snapshot"]["is_good"]
    assert "pilotlight prepare" in report["snapshot"]["detail"]
    assert not report["model"]["is_good"]
    assert report["spool"]["is_good"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("model.safetensors", "float32"),
        ("int8.safetensors", "auto"),
        ("config.json", "auto"),
        ("generation_config.json", "auto"),
        ("tokenizer.json", "auto"),
    ],
)
def test_a_damaged_file_is_found_and_the_rest_looked_at(
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    tiny_served: Snapshot,
    tmp_path: Path,
    name: str,
    dtype: str,
) -> None:
    monkeypatch.setenv("TORCH_DTYPE", dtype)
    directory = tmp_path / "damaged"
    shutil.copytree(tiny_served.directory, directory)
    data = (directory / name).read_bytes()
    (directory / name).write_bytes(b"\xff" * len(data))
    if name == "int8.safetensors":  # which a CPU without kernels would not read
        monkeypatch.setenv("QUANTIZATION", "int8")
    monkeypatch.setenv("MODEL_NAME", str(directory))
    report = check(capsysbinary, 1)
    assert not report["model"]["is_good"]
    assert report["model"]["detail"]


def test_a_setting_that_does_not_suit_the_model(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_MODEL_LEN", "4096")
    assert check(capsysbinary, 1)["model"]["detail"].startswith("MAX_MODEL_LEN: ")


def test_a_library_that_fails_in_its_own_way_is_a_finding(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr("handler.engine.loading.load_core", fail)
    assert check(capsysbinary, 1)["model"]["detail"] == "RuntimeError: CUDA error: out of memory"


def test_the_database_is_asked(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    assert "PostgreSQL 1" in check(capsysbinary, 0)["database"]["detail"]


def test_a_database_that_does_not_answer_is_told_without_its_password(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/db")
    report = check(capsysbinary, 1)
    assert not report["database"]["is_good"]
    assert "hunter2" not in json.dumps(report)
    assert report["spool"]["detail"].endswith("goes to standard output, for no SPOOL_DIR is named")


def test_a_spool_that_is_no_directory(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPOOL_DIR", str(tmp_path / "file"))
    assert not check(capsysbinary, 1)["spool"]["is_good"]


def test_people_get_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "alice:hunter2")
    assert main(["check"]) == 0
    shown = capsys.readouterr().out
    assert "MAX_BATCH_SIZE" in shown
    assert "alice" in shown
    assert "hunter2" not in shown
    assert shown.count("good  ") == len(SUBJECTS)


def test_brackets_in_a_setting_are_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_NAME", "[/bold]")
    assert main(["check"]) == 1
    assert "[/bold]" in capsys.readouterr().out
