from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import msgspec
import pytest

import bench.cli
from bench.errors import BenchError
from bench.http.contenders import CANDIDATES, COMPARISONS
from bench.http.streams import read_streams
from bench.result import Result
from handler.__main__ import main

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


def bench_http(*arguments: str) -> int:
    return main(["bench", "http", *arguments], {"bench": bench.cli})


@needs_wrk
def test_a_short_run(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    out = tmp_path / "result.json"
    names = ["bare", "pilotlight", "pilotlight-streams", "fastapi-streams"]
    only = [argument for name in names for argument in ("--only", name)]
    code = bench_http(*only, "--rounds", "1", "--seconds", "1", "--tokens", "16", "--json", "--out", str(out))
    result = msgspec.json.decode(capsysbinary.readouterr().out, type=Result)
    assert result.failures == ()
    assert code == 0
    assert result == msgspec.json.decode(out.read_bytes(), type=Result)
    assert set(result.summary) == set(names)
    assert result.summary["pilotlight"]["requests_per_s"].median > 0
    assert result.summary["pilotlight"]["cpu_us"].median > result.summary["bare"]["cpu_us"].median
    assert {ratio.numerator for ratio in result.ratios} == {
        "pilotlight requests_per_s", "bare cpu_us", "pilotlight-streams events_per_s",
    }  # fmt: skip
    details = {entry.contender: entry.details for entry in result.rounds}
    for name in ("pilotlight-streams", "fastapi-streams"):
        # Whole streams of 16 tokens with role, finish reason and end, and parts of the 64 that were running.
        assert abs(details[name]["num_events"] - 19 * details[name]["num_streams"]) <= 19 * 64


def test_without_wrk_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert bench_http("--only", "bare") == 2
    assert "apt-get install wrk" in capsys.readouterr().err


def test_whatever_is_compared_is_measured() -> None:
    for comparison in COMPARISONS:
        assert {comparison.numerator[0], comparison.denominator[0]} <= set(CANDIDATES)


def test_an_answer_that_is_no_stream_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
                connection.recv(65536)

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(BenchError, match="401"):
            read_streams(listener.getsockname()[1], b"{}", 1, 10.0)
        thread.join(10)
