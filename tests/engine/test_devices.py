from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from handler.boot import BootTimeline
from handler.engine import devices as devices_module
from handler.engine.devices import Placement, control_group_cpus, enter_device, place_engines
from handler.engine.options import EngineOptions
from handler.engine.precision import resolve_precision
from handler.errors import ConfigurationError
from tests.engine.conftest import num_threads


def devices(setting: str) -> list[str]:
    return [placement.device for placement in place_engines(EngineOptions(device=setting))]


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the tests themselves run in."""
    monkeypatch.setattr(devices_module, "_CONTROL_GROUP", tmp_path)


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("auto", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda:2,cuda:0", ["cuda:2", "cuda:0"]),
        ("cpu", ["cpu"]),
    ],
)
def test_a_setting_names_devices(three_gpus: None, setting: str, expected: list[str]) -> None:
    assert devices(setting) == expected


@pytest.mark.parametrize(("setting", "index"), [("auto", 0), ("cuda", 0), ("cuda:2", 2)])
def test_parameters_live_on_a_device_with_an_index(three_gpus: None, setting: str, index: int) -> None:
    assert resolve_precision(EngineOptions(device=setting)).device == torch.device("cuda", index)


def test_without_cuda_auto_is_the_cpu(no_gpu: None) -> None:
    assert devices("auto") == devices("cpu") == ["cpu"]


@pytest.mark.parametrize("setting", ["cuda", "cuda:0", "cuda:0,cuda:1"])
def test_cuda_that_is_not_there_is_refused(no_gpu: None, setting: str) -> None:
    with pytest.raises(ConfigurationError, match="no CUDA device") as caught:
        devices(setting)
    assert caught.value.key == "MODEL_DEVICE"


def test_one_device_that_does_not_exist_refuses_the_list(three_gpus: None) -> None:
    with pytest.raises(ConfigurationError, match="MODEL_DEVICE: cuda:3 asked for, but there are 3 devices"):
        devices("cuda:0,cuda:3")


def test_what_cannot_run_on_a_device_is_refused_before_any_boots(three_gpus: None) -> None:
    with pytest.raises(ConfigurationError, match="TORCH_DTYPE"):
        place_engines(EngineOptions(device="auto", dtype="float8"))


@pytest.mark.parametrize(("total", "share"), [(1, 1), (2, 1), (7, 2), (16, 5)])
def test_several_engines_share_the_threads(three_gpus: None, total: int, share: int) -> None:
    with num_threads(total):
        assert place_engines(EngineOptions()) == [Placement(f"cuda:{index}", share) for index in range(3)]
        assert place_engines(EngineOptions(device="cuda:1")) == [Placement("cuda:1", None)]


def test_a_thread_has_its_own_device_and_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "synchronize", current.append)
    seen: list[int] = []
    timeline = BootTimeline()

    def work() -> None:
        enter_device("cuda:1", 3, timeline)
        enter_device("cpu", None, timeline)
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (current, seen) == (["cuda:1", "cuda:1"], [3])
    assert [phase.name for phase in timeline.phases] == ["interpreter", "context"]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000", None), ("200000 100000", 2.0), ("50000 100000", 0.5), ("", None)]
)
def test_a_control_group_limits_the_cpus(text: str, cpus: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert control_group_cpus(tmp_path) == cpus
    assert control_group_cpus(tmp_path / "nowhere") is None


@pytest.mark.parametrize(("quota", "threads"), [(50000, 1), (150000, 2), (600000, 6), (900000, None)])
def test_no_more_threads_than_the_control_group_gives_cpus(
    quota: int, threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota} 100000")
    monkeypatch.setattr(devices_module, "_CONTROL_GROUP", tmp_path)
    with num_threads(8):
        assert place_engines(EngineOptions(device="cpu")) == [Placement("cpu", threads)]
