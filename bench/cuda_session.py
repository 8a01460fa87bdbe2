"""Everything that is measured on a CUDA machine, in one call: `python -m bench.cuda_session --out FILE`.

Made for a machine that is lent for minutes, without a network and without an installation of this package. Runs the
CUDA tests first, then the measurements, most wanted first, each in a process of its own with a time limit. A part that
fails or finds no time left is written down as such, and the others go on. The file is rewritten after each part, so
that what was measured survives whatever ends the session.

`--part NAME` picks parts, `--shape tiny --clients 1,2` and MODEL_DEVICE=cpu try the logic where there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

import bench
from bench.environment import look_around

_ROOT = Path(bench.__file__).parent.parent
_DEADLINE_S = 540.0
_LEAST_S = 15.0
_GRACE_S = 5.0
_TAIL = 4000
_KV_CACHE_FRACTION = "0.6"
"""Holds 256 sequences of the large model on 80 GB, and leaves room for the buffers that measure bandwidth."""
_BARE_PYTEST = (
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "-c",
    os.devnull,
    "--rootdir",
    str(_ROOT),
    "--noconftest",
)
"""Without the suite's configuration and fixtures: they ask for packages that such a machine may not have."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the session.

    Attributes:
        name: as the result calls it.
        command: after the interpreter; a `bench engine` gets a file for its result.
        limit_s: at most; less if the session ends earlier.
        environ: on top of the session's.
        has_result: whether it writes a result file.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    environ: Mapping[str, str] = {}
    has_result: bool = True


class PartResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a part went. `error` is None where it went well; `result` may be there all the same."""

    name: str
    duration_s: float
    error: str | None
    output_tail: str
    result: dict[str, Any] | None


def parts(shape: str, small_shape: str, clients: Sequence[int]) -> list[Part]:
    """The session in its order: tests, the large model and its peer, the small one, HTTP, other precisions."""
    counts = ",".join(map(str, clients))
    most = str(clients[-1])
    large = ("-m", "bench", "engine", "--random-model", shape, "--rounds", "1", "--tokens", "128")
    small = ("-m", "bench", "engine", "--random-model", small_shape, "--rounds", "3", "--tokens", "256")
    engine, peer = ("--parts", "engine"), ("--peer", "transformers-batch")
    http = ("--parts", "engine,http", "--requests", "1", "--clients", most)
    found = [
        Part(name="model", command=("-m", "bench.models", shape), limit_s=150.0, has_result=False),
        Part(name="large", command=(*large, *engine, "--clients", counts, "--profile"), limit_s=150.0),
        Part(name="large-peer", command=(*large, *engine, *peer, "--clients", counts), limit_s=180.0),
        Part(name="small", command=(*small, *engine, "--clients", "1", "--profile"), limit_s=90.0),
        Part(name="large-http", command=(*large, *http), limit_s=120.0),
        Part(name="weights", command=("-m", "bench.weight_copy", "--random-model", shape), limit_s=90.0),
    ]
    for quantization in ("fp8", "int8"):
        environ = {"QUANTIZATION": quantization}
        part = Part(
            name=f"large-{quantization}", command=(*large, *engine, "--clients", counts), limit_s=90.0, environ=environ
        )
        found.append(part)
    if (_ROOT / "tests" / "cuda").is_dir():
        command = (*_BARE_PYTEST, str(_ROOT / "tests" / "cuda"))
        found.insert(0, Part(name="tests", command=command, limit_s=150.0, has_result=False))
    return found


def run_part(part: Part, limit_s: float) -> PartResult:
    """Run it; whatever happens to it becomes its result."""
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        result_path = Path(directory) / "result.json"
        command = [sys.executable, *part.command, *(["--out", str(result_path)] if part.has_result else [])]
        began_s = time.monotonic()
        error, output = _run(command, part.environ, limit_s)
        result = None
        if result_path.is_file():
            result = msgspec.json.decode(result_path.read_bytes(), type=dict[str, Any])
        elif part.has_result and error is None:
            error = "it wrote no result"
        return PartResult(
            name=part.name,
            duration_s=time.monotonic() - began_s,
            error=error,
            output_tail=output[-_TAIL:],
            result=result,
        )


def run_session(chosen: Sequence[Part], deadline_s: float, out: Path) -> list[PartResult]:
    """Run the parts one by one until `deadline_s` from now, writing the file after each."""
    began_s = time.monotonic()
    environment = look_around()
    results: list[PartResult] = []
    for part in chosen:
        left_s = deadline_s - (time.monotonic() - began_s)
        if left_s < _LEAST_S:
            results.append(
                PartResult(name=part.name, duration_s=0.0, error="no time was left", output_tail="", result=None)
            )
        else:
            sys.stderr.write(f"{part.name} ({left_s:.0f} s left)\n")
            results.append(run_part(part, min(part.limit_s, left_s)))
        session = {"environment": environment, "deadline_s": deadline_s, "parts": results}
        out.write_bytes(msgspec.json.format(msgspec.json.encode(session)) + b"\n")
    return results


def main() -> int:
    """Run the session; 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda_session", description="Measure on a CUDA machine.")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--deadline", type=float, default=_DEADLINE_S, help="seconds for everything")
    parser.add_argument("--shape", default="llama-8b", help="of the large model")
    parser.add_argument("--small-shape", default="smollm2-135m", help="of the small one")
    parser.add_argument("--clients", default="1,64,256", help="batch sizes")
    parser.add_argument("--part", action="append", help="only this part; repeatable")
    args = parser.parse_args()
    everything = parts(args.shape, args.small_shape, [int(count) for count in args.clients.split(",")])
    if unknown := set(args.part or ()) - {part.name for part in everything}:
        parser.error(
            f"--part: there is no {', '.join(sorted(unknown))}; known: {', '.join(p.name for p in everything)}"
        )
    chosen = [part for part in everything if args.part is None or part.name in args.part]
    results = run_session(chosen, args.deadline, args.out)
    for result in results:
        sys.stdout.write(f"{result.name}: {result.duration_s:.0f} s, {result.error or 'good'}\n")
    return 1 if any(result.error for result in results) else 0


def _run(command: Sequence[str], environ: Mapping[str, str], limit_s: float) -> tuple[str | None, str]:
    """What went wrong, if anything, and what was printed."""
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    full = {"KV_CACHE_FRACTION": _KV_CACHE_FRACTION} | os.environ | dict(environ) | own
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(command, env=full, stdout=log, stderr=subprocess.STDOUT, cwd=_ROOT)  # noqa: S603
        try:
            code = process.wait(limit_s)
            error = f"it ended with {code}" if code else None
        except subprocess.TimeoutExpired:
            _end(process)
            error = f"it did not end within {limit_s:.0f} s"
        log.seek(0)
        return error, log.read()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask first, for the benchmark ends its own children when asked; none may keep the card from the next part."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(family, _GRACE_S)


if __name__ == "__main__":
    sys.exit(main())
