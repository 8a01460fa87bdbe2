"""Against a small hub on a socket, each in its own process: the library reads settings when imported."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from handler.engine.snapshot import find_snapshot, verify_checksums

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "org/gated"


class Hub(http.server.ThreadingHTTPServer):
    """Serves `files` as the main revision of every model but `org/absent` and `org/gated`."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.sent: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        files = self.server.files
        if "org/absent" in path:
            self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif GATED in path and "/resolve/" in path:
            self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif "/resolve/" in path:
            name = path.partition(f"/resolve/{COMMIT}/")[2]
            data = files[name]
            if self.command == "GET":
                self.server.sent.append(name)
            self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            self.answer(200, json.dumps(tree).encode(), {})
        else:
            info = {"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            self.answer(200, json.dumps(info).encode(), {})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(model_directory: Path) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in model_directory.iterdir()}
    with Hub(files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def prepare(model: str, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environ = kept | {"HF_HOME": str(home / "hf"), "no_proxy": "127.0.0.1"} | environ
    command = [sys.executable, "-m", "tests.prepare.child", model, str(home), "count"]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def endpoint(hub: Hub) -> str:
    return f"http://127.0.0.1:{hub.server_address[1]}"


def assert_one_line(result: subprocess.CompletedProcess[str], text: str) -> None:
    assert result.returncode == 1
    assert result.stderr.startswith("SnapshotError: hub model org/")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr


def test_a_hub_model_is_downloaded_and_only_what_is_needed(hub: Hub, tmp_path: Path) -> None:
    hub.files |= {
        "pytorch_model.bin": b"\x80",
        "consolidated.safetensors": b"",
        "onnx/model.onnx": b"",
        "a.py": b"",
    }
    result = prepare("org/tiny", tmp_path, HF_ENDPOINT=endpoint(hub))
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[1] == "downloading org/tiny"
    assert lines[2] == f"{sum(len(hub.files[name]) for name in hub.sent)} bytes"
    snapshot = find_snapshot("org/tiny", tmp_path)
    verify_checksums(snapshot)
    assert snapshot.name == "org/tiny"
    assert snapshot.manifest.source == f"hub org/tiny@{COMMIT}"
    assert sorted(hub.sent) == sorted(name for name in hub.files if name.startswith(("model", "tok", "gen", "config")))


def test_what_is_cached_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    prepare("org/tiny", tmp_path, HF_ENDPOINT=endpoint(hub))
    first = find_snapshot("org/tiny", tmp_path)
    (first.directory / "config.json").unlink()
    result = prepare("org/tiny", tmp_path, HF_HUB_OFFLINE="1")
    assert (result.returncode, result.stderr) == (0, "")
    verify_checksums(find_snapshot("org/tiny", tmp_path))


def test_a_model_with_pickled_weights_only_is_refused_by_name(hub: Hub, tmp_path: Path) -> None:
    for name in [name for name in hub.files if name.startswith("model")]:
        del hub.files[name]
    hub.files["pytorch_model.bin"] = b"\x80"
    result = prepare("org/tiny", tmp_path, HF_ENDPOINT=endpoint(hub))
    assert_one_line(result, "has pickled weights only (pytorch_model.bin)")
    assert "pytorch_model.bin" not in hub.sent


def test_a_model_that_nothing_can_run_is_refused_before_its_weights_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    hub.files["config.json"] = b'{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}'
    result = prepare("org/tiny", tmp_path, HF_ENDPOINT=endpoint(hub))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "MambaForCausalLM cannot be served: it keeps a state" in result.stderr
    assert hub.sent == ["config.json"]


def test_a_model_that_does_not_exist_is_one_line(hub: Hub, tmp_path: Path) -> None:
    result = prepare("org/absent", tmp_path, HF_ENDPOINT=endpoint(hub))
    assert_one_line(result, "does not exist, or is private")


def test_a_gated_model_is_one_line(hub: Hub, tmp_path: Path) -> None:
    assert_one_line(prepare(GATED, tmp_path, HF_ENDPOINT=endpoint(hub)), "is gated: accept its terms")


def test_offline_is_one_line(tmp_path: Path) -> None:
    result = prepare("org/tiny", tmp_path, HF_HUB_OFFLINE="1")
    assert_one_line(result, "is not in the local cache, and HF_HUB_OFFLINE is set")


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    result = prepare("org/tiny", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert_one_line(result, "is not in the local cache, and the hub cannot be reached")
