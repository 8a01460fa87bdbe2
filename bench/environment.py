"""On what a measurement was made: processor, GPU, versions, commit, load. Starts nothing but git and nvidia-smi."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

PACKAGES = ("torch", "triton", "transformers", "tokenizers", "uvicorn", "uvloop", "httptools", "starlette", "msgspec")
_CPU_FLAGS = frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimddp"})
_SPEED_VARIABLES = ("CUDA_", "GOMP_", "KMP_", "LD_PRELOAD", "MALLOC_", "MKL_", "OMP_", "PYTORCH_", "TORCH_", "TRITON_")
_TIMEOUT_S = 20.0


class Gpu(msgspec.Struct, frozen=True):
    """One card as nvidia-smi names it."""

    name: str
    driver: str
    memory_mib: int


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the machine at one moment. None: it could not be found out.

    Attributes:
        taken_at: ISO 8601, UTC.
        cpu_model: as the kernel names it.
        num_cpus: that this process may use.
        cpu_flags: the instruction sets that matter for the kernels.
        memory_bytes: of the machine.
        load_average: over 1, 5 and 15 minutes; the first one tells whether the machine was quiet.
        gpus: visible to nvidia-smi.
        kernel: release of the operating system.
        python: version.
        packages: versions of what a step runs through, as far as installed.
        commit: of the checkout that was measured; of a copy without its history, what GIT_COMMIT says.
        is_modified: whether tracked files differ from that commit.
        variables: environment variables that change how fast things run.
    """

    taken_at: str
    cpu_model: str | None
    num_cpus: int
    cpu_flags: tuple[str, ...]
    memory_bytes: int
    load_average: tuple[float, float, float]
    gpus: tuple[Gpu, ...]
    kernel: str
    python: str
    packages: dict[str, str]
    commit: str | None
    is_modified: bool | None
    variables: dict[str, str]


def look_around() -> Environment:
    """The environment of this process, now."""
    model, flags = read_cpuinfo(Path("/proc/cpuinfo"))
    status = _answer("git", "status", "--porcelain", "--untracked-files=no")
    return Environment(
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu_model=model,
        num_cpus=len(os.sched_getaffinity(0)),
        cpu_flags=flags,
        memory_bytes=psutil.virtual_memory().total,
        load_average=os.getloadavg(),
        gpus=_gpus(),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=installed(PACKAGES),
        commit=_answer("git", "rev-parse", "HEAD") or os.environ.get("GIT_COMMIT"),
        is_modified=None if status is None else bool(status),
        variables={key: value for key, value in sorted(os.environ.items()) if key.startswith(_SPEED_VARIABLES)},
    )


def installed(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of those that are installed in this interpreter."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def read_cpuinfo(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """Model name and notable flags of the first processor of a /proc/cpuinfo."""
    try:
        first = path.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return None, ()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name"), tuple(sorted(_CPU_FLAGS & set(flags.split())))


def _gpus() -> tuple[Gpu, ...]:
    found = _answer("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")
    rows = [line.split(", ") for line in (found or "").splitlines()]
    return tuple(Gpu(name, driver, int(memory)) for name, driver, memory in rows)


def _answer(program: str, *arguments: str) -> str | None:
    """What a program prints, None where there is no such program or it fails."""
    path = shutil.which(program)
    if path is None:
        return None
    command = [path, *arguments]
    try:
        done = subprocess.run(  # noqa: S603  (fixed arguments)
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
