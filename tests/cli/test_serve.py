from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import msgspec
import pytest

from handler.cli.serve import engine_options, ensure_snapshot
from handler.engine.options import EngineOptions
from handler.errors import SnapshotError
from handler.settings import Settings
from tests.server import ServerProcess, free_port
from tests.tiny_models import make_model, save_model

ROOT = Path(__file__).parents[2]


def test_the_engine_gets_every_setting_that_it_knows() -> None:
    settings = Settings.from_env(
        {
            "MODEL_DEVICE": "cpu",
            "TORCH_DTYPE": "bfloat16",
            "QUANTIZATION": "int8",
            "MAX_BATCH_SIZE": "3",
            "MAX_MODEL_LEN": "100",
            "PREFILL_CHUNK_TOKENS": "300",
            "KV_CACHE_FRACTION": "0.5",
            "SPECULATION_TOKENS": "6",
        }
    )
    options = engine_options(settings)
    defaults = EngineOptions()
    for field in EngineOptions.__struct_fields__:
        assert getattr(options, field) != getattr(defaults, field), field
    assert (options.max_batch_size, options.max_model_len, options.prefill_chunk_tokens) == (3, 100, 300)


def test_a_model_is_prepared_whatever_lies_in_the_working_directory(
    tiny_environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "handler.py").write_text("raise SystemExit('the wrong handler')")
    monkeypatch.chdir(tmp_path)
    model = save_model(make_model("llama"), tmp_path / "fresh")
    capfd.readouterr()
    snapshot = ensure_snapshot(Settings.from_env(tiny_environ | {"MODEL_NAME": str(model)}))
    said = capfd.readouterr()
    assert (said.out, "fresh is ready" in said.err) == ("", True), "standard output is for lines of JSON"
    assert snapshot.name == "fresh"
    assert snapshot.directory.is_relative_to(tmp_path / "snapshots")


def test_a_prepared_model_is_found_and_an_impossible_one_is_an_error(
    tiny_environ: dict[str, str], tmp_path: Path
) -> None:
    assert ensure_snapshot(Settings.from_env(tiny_environ)).name == "llama"
    missing = Settings.from_env(tiny_environ | {"MODEL_NAME": str(tmp_path / "missing")})
    with pytest.raises(SnapshotError, match="could not be prepared"):
        ensure_snapshot(missing)


def test_a_machine_reads_json(tiny_environ: dict[str, str]) -> None:
    with ServerProcess(tiny_environ | {"HOST": "127.0.0.1", "TORCH_DTYPE": "float32"}) as process:
        assert process.stop() == 0
    entries = [msgspec.json.decode(line) for line in process.lines]
    assert [entry["message"] for entry in entries] == ["ready", "stopping"]
    ready = entries[0]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", ready["address"])
    assert (ready["name"], ready["device"], ready["dtype"]) == ("llama", "cpu", "float32")
    assert set(ready["phases_s"]) >= {"interpreter", "bind", "import_torch", "weights", "warm_up"}
    assert sum(ready["phases_s"].values()) <= ready["ready_s"] + 0.1


def test_people_see_what_is_served_where_and_how_to_try_it(tiny_environ: dict[str, str]) -> None:
    terminal, inner = pty.openpty()
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "handler", "serve", "--port", str(port)],
        env={"PATH": os.environ["PATH"], "QUANTIZATION": "int8"} | tiny_environ,
        stdin=subprocess.DEVNULL,
        stdout=inner,
        stderr=inner,
        cwd=ROOT,
    )
    os.close(inner)
    try:
        shown = b""
        deadline_s = time.monotonic() + 60
        while b"curl " not in shown or not shown.endswith(b"\n"):
            assert time.monotonic() < deadline_s
            shown += os.read(terminal, 4096)
        text = shown.decode()
        assert f"Pilotlight on http://127.0.0.1:{port}" in text
        assert "llama (LlamaForCausalLM, 1024 tokens of context)" in text
        assert "cpu, float32, quantization int8" in text
        for phase in ("interpreter", "import_torch", "weights", "warm_up"):
            assert re.search(rf"{phase} \d+\.\d\d", text)
        assert "{" not in text.partition("curl ")[0]
        # The line that it offers works as it stands.
        _, url, header_flag, header, data_flag, data = shlex.split(text[text.index("curl ") :])
        assert (header_flag, data_flag) == ("-H", "-d")
        answer = httpx.post(url, headers=dict([header.split(": ")]), content=data, timeout=30)
        assert answer.json()["object"] == "chat.completion"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
