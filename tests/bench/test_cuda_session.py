from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from bench import cuda_session
from bench.cuda_session import Part, main, parts, run_session

WRITES = "import pathlib, sys; pathlib.Path(sys.argv[sys.argv.index('--out') + 1]).write_text('{\"speed\": 1}')"


def part(name: str, code: str, limit_s: float = 60.0, **fields: Any) -> Part:
    return Part(name=name, command=("-c", code), limit_s=limit_s, **fields)


def read(path: Path) -> dict[str, Any]:
    session: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return {entry["name"]: entry for entry in session["parts"]} | {"environment": session["environment"]}


def test_a_part_that_fails_is_written_down_and_the_others_go_on(tmp_path: Path) -> None:
    out = tmp_path / "session.json"
    chosen = [
        part("dies", "raise SystemExit('no kernel image')"),
        part("silent", "pass"),
        part("late", "import time; print('loading', flush=True); time.sleep(60)", limit_s=2.0),
        part("told", "import os; print(os.environ['QUANTIZATION'])", environ={"QUANTIZATION": "fp8"}, has_result=False),
        part("good", WRITES),
        part("half", f"{WRITES}; raise SystemExit(1)"),
    ]
    results = run_session(chosen, 100.0, out)
    found = read(out)
    assert [result.name for result in results] == [one.name for one in chosen]
    assert (found["dies"]["error"], "no kernel image" in found["dies"]["output_tail"]) == ("it ended with 1", True)
    assert found["silent"]["error"] == "it wrote no result"
    assert found["late"]["error"] == "it did not end within 2 s"
    assert "loading" in found["late"]["output_tail"]
    assert (found["told"]["error"], found["told"]["output_tail"]) == (None, "fp8\n")
    assert (found["good"]["error"], found["good"]["result"]) == (None, {"speed": 1})
    assert (found["half"]["error"], found["half"]["result"]) == ("it ended with 1", {"speed": 1})
    assert found["environment"]["num_cpus"] >= 1


def test_no_descendant_of_a_part_outlives_it() -> None:
    server = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    starts = (
        "import subprocess, sys, time\n"
        f"command = [sys.executable, '-c', {server!r}]\n"
        "server = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)\n"
        "server.stdout.readline()\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", starts], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        server_pid = int(process.stdout.readline())
        assert psutil.pid_exists(server_pid)
        cuda_session._end(process)
    assert not psutil.pid_exists(server_pid)


def test_parts_without_time_are_named(tmp_path: Path) -> None:
    out = tmp_path / "session.json"
    (result,) = run_session([part("good", WRITES)], cuda_session._LEAST_S - 1.0, out)
    assert result.error == "no time was left"
    assert read(out)["good"]["result"] is None


def test_the_whole_session_measures_a_tiny_model_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "session.json"
    monkeypatch.setenv("PILOTLIGHT_HOME", str(tmp_path))
    monkeypatch.setenv("MODEL_DEVICE", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = [
        "--shape",
        "tiny",
        "--small-shape",
        "tiny",
        "--clients",
        "1,2",
        "--part",
        "large",
        "--part",
        "large-int8",
        "--part",
        "weights",
    ]
    monkeypatch.setattr(sys, "argv", ["cuda_session", "--out", str(out), *arguments])
    assert main() == 0
    found = read(out)
    assert found["large"]["error"] is None
    assert set(found["large"]["result"]["profile"]) == {"1", "2"}
    assert "tokens_per_s@2" in found["large"]["result"]["summary"]["engine"]
    assert found["large-int8"]["error"] is None
    assert found["large-int8"]["result"]["summary"]["engine"]["tokens_per_s@2"]
    assert found["weights"]["error"] is None
    assert all(len(rates) == 5 and min(rates) > 0 for rates in found["weights"]["result"]["bytes_per_s"].values())
    assert "large: " in capsys.readouterr().out


def test_a_part_that_does_not_exist_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cuda_session", "--out", "x", "--part", "medium"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "there is no medium" in capsys.readouterr().err


def test_the_most_wanted_comes_first() -> None:
    names = [one.name for one in parts("llama-8b", "smollm2-135m", [1, 64, 256]) if one.name != "tests"]
    assert names[:5] == ["model", "large", "large-peer", "small", "large-http"]
