from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import msgspec
import pytest

import bench.load
from bench.arrivals import Closed, Constant, Trace, Window
from bench.errors import BenchError
from bench.load.processes import run_load
from bench.traces import read_trace
from tests.bench.load.known_server import serving, streaming
from tests.bench.load.loads import loaded, spec

SAMPLE = Path(bench.load.__file__).parent / "sample_trace.csv"


async def test_several_processes_share_the_arrivals(tmp_path: Path) -> None:
    async with serving(streaming(0.01, 0.0)) as server:
        load = spec(server.port, Constant(rate_per_s=20.0), 1.0)
        answer, records = await loaded(load, tmp_path, num_processes=2)
    assert [record.number for record in records] == list(range(20))
    assert [record.scheduled_s for record in records] == [pytest.approx(number / 20) for number in range(20)]
    assert answer.num_whole == answer.num_requests == 20
    # Both began at once: what is scheduled alternately came alternately, but for what the machine held up.
    assert {each.number % 2 for each in server.served[:6]} == {0, 1}


async def test_users_of_several_processes_ask_different_questions(tmp_path: Path) -> None:
    async with serving(streaming(0.02, 0.0)) as server:
        answer, records = await loaded(spec(server.port, Closed(users=3), 0.5), tmp_path, num_processes=2)
    numbers = [record.number for record in records]
    assert len(set(numbers)) == len(numbers)
    assert {number % 2 for number in numbers} == {0, 1}
    assert answer.offered_per_s is None
    assert answer.dispatch_delay_ms is None


def test_a_processor_for_each() -> None:
    with pytest.raises(BenchError, match="core: several processes"):
        run_load(msgspec.structs.replace(spec(1, Closed(users=1), 1.0), core=0), 2)


async def test_a_trace_is_replayed_with_its_lengths(tmp_path: Path) -> None:
    rows = read_trace(SAMPLE, "burstgpt", 20.0).requests
    async with serving(streaming(0.0, 0.0)) as server:
        trace = Trace(path=str(SAMPLE), format="burstgpt", speed=20.0)
        answer, records = await loaded(spec(server.port, trace, 1.0), tmp_path)
    assert answer.failures == {}
    assert [record.scheduled_s for record in records] == [pytest.approx(row.at_s / 20, abs=1e-6) for row in rows]
    assert [record.max_tokens for record in records] == [row.output_tokens for row in rows]
    served = {each.number: each for each in server.served}
    lengths = [len(served[number].body["messages"][0]["content"].split()) for number in range(len(rows))]
    assert lengths == [row.prompt_tokens for row in rows]


@pytest.fixture
def certified(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS, and the certificate that a client has to trust."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return tls, certificate


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes a certificate, is not installed")
async def test_https(certified: tuple[ssl.SSLContext, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, certificate = certified
    window = Window(warm_up_s=0.0, duration_s=0.5, cool_down_s=0.0)
    async with serving(streaming(0.01, 0.005), tls) as server:
        load = spec(server.port, Closed(users=2), 0.5, window=window, url=f"https://127.0.0.1:{server.port}")
        distrusted, _ = await loaded(load, tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        answer, records = await loaded(load, tmp_path)
    assert set(distrusted.failures) == {"connection"}
    assert "certificate" in distrusted.errors[0].lower()
    assert answer.failures == {}
    assert len(records) > 4
    assert min(len(record.token_times_s) for record in records) == 4
    assert any(min(record.gaps_s) > 0 for record in records)  # events were seen one by one
