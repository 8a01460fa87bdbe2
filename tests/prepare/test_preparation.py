from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from handler.engine.snapshot import find_snapshot, snapshot_directory, verify_checksums
from handler.engine.weights.safetensors import iter_tensors
from handler.errors import SnapshotError, SnapshotNotFoundError
from handler.prepare.preparation import prepare
from handler.prepare.progress import NoProgress
from tests.prepare.gguf_files import write_gguf
from tests.prepare.recorder import Recorder
from tests.tiny_models import make_model

ROOT = Path(__file__).parents[2]


def child(model: Path | str, home: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.prepare.child", str(model), str(home), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], step: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(step):
            return
    raise AssertionError(f"the child ended before {step!r}")


def hidden(home: Path) -> list[Path]:
    return [path for path in (home / "snapshots").iterdir() if path.is_dir() and path.name.startswith(".")]


def test_a_prepared_directory_serves_the_same_tensors(model_directory: Path, tmp_path: Path) -> None:
    snapshot = prepare(str(model_directory), tmp_path / "home", NoProgress())
    assert snapshot == find_snapshot(str(model_directory), tmp_path / "home")
    assert snapshot.name == "tiny-llama"
    expected = make_model("llama").state_dict()
    found = dict(iter_tensors(snapshot.directory))
    assert found.keys() == expected.keys()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    verify_checksums(snapshot)


def test_an_intact_snapshot_is_left_as_it_is(model_directory: Path, tmp_path: Path) -> None:
    first = prepare(str(model_directory), tmp_path / "home", NoProgress())
    made = first.directory.stat().st_ino
    recorder = Recorder()
    assert prepare(str(model_directory), tmp_path / "home", recorder) == first
    assert recorder.steps == ["checking the snapshot that is there"]
    assert recorder.done_bytes == first.size_bytes
    assert first.directory.stat().st_ino == made


def test_force_makes_it_anew(model_directory: Path, tmp_path: Path) -> None:
    first = prepare(str(model_directory), tmp_path / "home", NoProgress())
    (model_directory / "config.json").write_bytes((model_directory / "config.json").read_bytes() + b"\n")
    second = prepare(str(model_directory), tmp_path / "home", NoProgress(), force=True)
    assert second.directory == first.directory
    assert second.size_bytes == first.size_bytes + 1
    assert hidden(tmp_path / "home") == []


def test_a_flipped_bit_makes_it_anew(model_directory: Path, tmp_path: Path) -> None:
    first = prepare(str(model_directory), tmp_path / "home", NoProgress())
    path = first.directory / "config.json"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    recorder = Recorder()
    second = prepare(str(model_directory), tmp_path / "home", recorder)
    verify_checksums(second)
    assert any("config.json has SHA-256" in step for step in recorder.steps)


def test_a_kill_in_mid_write_leaves_nothing_that_counts(tmp_path: Path) -> None:
    model, home = write_gguf(make_model("llama"), tmp_path / "tiny.gguf"), tmp_path / "home"
    process = child(model, home, "slow")
    wait_for(process, "converting the weights")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(hidden(home)) == 1
    assert (hidden(home)[0] / "config.json").is_file()
    with pytest.raises(SnapshotNotFoundError):
        find_snapshot(str(model), home)
    verify_checksums(prepare(str(model), home, NoProgress()))
    assert hidden(home) == []


def test_a_kill_while_checksums_are_taken_leaves_nothing_that_counts(tmp_path: Path) -> None:
    model, home = write_gguf(make_model("llama"), tmp_path / "tiny.gguf"), tmp_path / "home"
    process = child(model, home, "slow")
    wait_for(process, "taking checksums")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(SnapshotNotFoundError):
        find_snapshot(str(model), home)


def test_control_c_cleans_up(tmp_path: Path) -> None:
    model, home = write_gguf(make_model("llama"), tmp_path / "tiny.gguf"), tmp_path / "home"
    process = child(model, home, "slow")
    wait_for(process, "converting the weights")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert "KeyboardInterrupt" in stderr
    assert hidden(home) == []
    assert not snapshot_directory(str(model), home).exists()


def test_leftovers_go_even_where_the_snapshot_is_intact(model_directory: Path, tmp_path: Path) -> None:
    snapshot = prepare(str(model_directory), tmp_path / "home", NoProgress())
    for kind in ("building", "replaced"):
        (snapshot.directory.parent / f".{snapshot.directory.name}.{kind}-0123abcd").mkdir()
    prepare(str(model_directory), tmp_path / "home", NoProgress())
    assert hidden(tmp_path / "home") == []


def test_two_at_once_do_the_work_once(tmp_path: Path) -> None:
    model, home = write_gguf(make_model("llama"), tmp_path / "tiny.gguf"), tmp_path / "home"
    first = child(model, home, "slow")
    wait_for(first, "converting the tokenizer")
    second = child(model, home)
    outputs = [process.communicate()[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0]
    assert "taking checksums" in outputs[0]
    assert outputs[1].splitlines() == [
        "waiting for another prepare of this model",
        "checking the snapshot that is there",
        f"done {snapshot_directory(str(model), home)}",
    ]
    verify_checksums(find_snapshot(str(model), home))


def test_a_snapshot_is_its_own_source(model_directory: Path, tmp_path: Path) -> None:
    snapshot = prepare(str(model_directory), tmp_path / "home", NoProgress())
    assert prepare(str(snapshot.directory), tmp_path / "elsewhere", NoProgress()) == snapshot
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(SnapshotError, match="is itself a snapshot"):
        prepare(str(snapshot.directory), tmp_path / "elsewhere", NoProgress(), force=True)


@pytest.mark.parametrize("model", ["no-such-model", "/no/such/directory", "no-such.gguf"])
def test_a_model_that_does_not_exist_names_what_could(tmp_path: Path, model: str) -> None:
    with pytest.raises(SnapshotNotFoundError, match=r"there is no model .* smollm2-135m, a hub id"):
        prepare(model, tmp_path, NoProgress())


def test_a_home_that_cannot_be_written_is_one_line(model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(SnapshotError, match="cannot be made: Not a directory") as caught:
        prepare(str(model_directory), tmp_path / "home", NoProgress())
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    model, home = write_gguf(make_model("llama"), tmp_path / "tiny.gguf"), tmp_path / "home"
    code = "import resource, signal, runpy; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    code += "runpy.run_module('tests.prepare.child', run_name='__main__')"
    command = [sys.executable, "-c", code, str(model), str(home)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("SnapshotError: ")
    assert result.stderr.count("\n") == 1
    left = [path.name for path in (home / "snapshots").iterdir()]
    assert left == [f".{snapshot_directory(str(model), home).name}.lock"]
