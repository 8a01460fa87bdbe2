"""What builds images and runs containers: Docker where an engine answers, else Buildah, which needs none.

Standard library only.

Buildah runs where containers cannot be nested: its `chroot` isolation shares the network and the processes of the
machine, and knows no read-only root. It is for building and trying an image, not for serving.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

BASE = "localhost/pilotlight-base"
"""A Debian with Python, made here where no registry can be reached."""

_SUITE = "bookworm"
_STOP_S = 60.0
_USER = "10001"


def run(command: Sequence[str], *, capture: bool = False) -> str:
    """Run a command that must work; its output, if that is captured.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return (done.stdout or "").strip()


def engine_here() -> Docker | Buildah:
    """What there is on this machine.

    Raises:
        SystemExit: nothing, and it cannot be installed.
    """
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0:
        return Docker()
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if missing:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise SystemExit(
                f"no Docker engine answers, and there is no {' and no '.join(missing)} (Debian: apt-get install)"
            )
        run(["apt-get", "update", "-qq"])
        run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing])
    return Buildah()


class Docker:
    """Docker Engine with BuildKit."""

    def build(self, tag: str, arguments: Mapping[str, str], pip_conf: Path) -> None:
        """Build the image in the working directory."""
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        run(["docker", "build", "--tag", tag, "--secret", f"id=pip,src={pip_conf}", *given, "."])

    def layers(self, tag: str) -> list[tuple[str, int]]:
        """What made each layer, and its bytes, the base first."""
        text = run(
            ["docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", tag],
            capture=True,
        )
        rows = [line.split("\t", 1) for line in text.splitlines()]
        return [(made_by, int(size)) for size, made_by in reversed(rows) if int(size)]

    @contextlib.contextmanager
    def container(self, tag: str, environ: Mapping[str, str], port: int) -> Iterator[Container]:
        """One that starts now, with a root that it cannot write to; ended and removed afterwards."""
        given = [f"--env={key}={value}" for key, value in environ.items()]
        command = ["docker", "run", "--rm", "--read-only", "--tmpfs=/tmp", f"--publish=127.0.0.1:{port}:{port}", *given]
        name = f"pilotlight-{os.getpid()}-{port}"
        with _child([*command, "--name", name, tag]) as child:
            yield Container(
                child,
                terminate=lambda: run(["docker", "kill", "--signal=TERM", name], capture=True),
                execute=["docker", "exec", name],
            )


class Buildah:
    """Buildah in its chroot isolation."""

    def build(self, tag: str, arguments: Mapping[str, str], pip_conf: Path) -> None:
        """Build the image in the working directory, on a base made here unless one is named."""
        if "BASE_IMAGE" not in arguments:
            self._ensure_base()
            arguments = {"BASE_IMAGE": BASE, **arguments}
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        volumes = [f"--volume={path}:{path}:ro" for path in _paths_named_in(pip_conf)]
        secret = f"--secret=id=pip,src={pip_conf}"
        run(
            [
                "buildah",
                "bud",
                "--isolation=chroot",
                "--format=docker",
                "--layers",
                "--tag",
                tag,
                secret,
                *volumes,
                *given,
                ".",
            ]
        )

    def layers(self, tag: str) -> list[tuple[str, int]]:
        """What made each layer, and its bytes, the base first."""
        image = json.loads(run(["buildah", "inspect", "--type=image", tag], capture=True))
        made_by = [
            each.get("created_by", "the base") for each in image["Docker"]["history"] if not each.get("empty_layer")
        ]
        sizes = self._sizes()
        return [
            (text, sizes.get(digest, 0))
            for text, digest in zip(made_by, image["Docker"]["rootfs"]["diff_ids"], strict=True)
        ]

    @contextlib.contextmanager
    def container(self, tag: str, environ: Mapping[str, str], port: int) -> Iterator[Container]:
        """One that starts now; ended and removed afterwards."""
        name = run(["buildah", "from", "--pull-never", tag], capture=True)
        try:
            config = json.loads(run(["buildah", "inspect", "--type=image", tag], capture=True))["Docker"]["config"]
            given = [f"--env={key}={value}" for key, value in environ.items()]
            execute = ["buildah", "run", "--isolation=chroot", f"--user={config['User']}", *given, name, "--"]
            with _child([*execute, *config["Entrypoint"], *config["Cmd"]]) as child:
                yield Container(child, terminate=lambda: _terminate_function(child.pid), execute=execute)
        finally:
            run(["buildah", "rm", name], capture=True)

    def _ensure_base(self) -> None:
        known = subprocess.run(["buildah", "inspect", "--type=image", BASE], capture_output=True, check=False)
        if known.returncode == 0:
            return
        with tempfile.TemporaryDirectory(prefix="pilotlight-base-") as directory:
            include = "--include=ca-certificates,python3,python3-venv"
            run(["debootstrap", "--variant=minbase", include, _SUITE, directory])
            for rest in ("var/cache/apt/archives", "var/lib/apt/lists"):
                shutil.rmtree(Path(directory) / rest, ignore_errors=True)
            name = run(["buildah", "from", "scratch"], capture=True)
            run(["buildah", "add", "--quiet", name, directory, "/"], capture=True)
            run(["buildah", "commit", "--quiet", "--rm", name, BASE], capture=True)

    def _sizes(self) -> dict[str, int]:
        """Bytes of each layer that is stored, by its digest."""
        root = Path(run(["buildah", "info", "--format", "{{.store.GraphRoot}}"], capture=True))
        sizes = {}
        for index in root.glob("*-layers/layers.json"):
            for layer in json.loads(index.read_text(encoding="utf-8")):
                if "diff-digest" in layer:
                    sizes[layer["diff-digest"]] = int(layer.get("diff-size", 0))
        return sizes


class Container:
    """One that runs; its output goes to our standard error.

    Args:
        child: the engine's command that waits for it.
        terminate: sends SIGTERM to its first process, as every platform does.
        execute: what runs one more command in it.
    """

    def __init__(
        self, child: subprocess.Popen[bytes], *, terminate: Callable[[], object], execute: Sequence[str]
    ) -> None:
        self._child = child
        self._execute = execute
        self.terminate = terminate

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return self._child.wait(_STOP_S)

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run one more command in it."""
        return subprocess.run([*self._execute, *command], capture_output=True, text=True, check=False, timeout=_STOP_S)

    @property
    def has_ended(self) -> bool:
        """Whether it is no longer there."""
        return self._child.poll() is not None


@contextlib.contextmanager
def _child(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(command, stdout=sys.stderr)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()


def _terminate_function(pid: int) -> None:
    """SIGTERM for the first process below `pid` that runs as the image's user and is none of Buildah's."""
    deadline_s = time.monotonic() + _STOP_S
    while time.monotonic() < deadline_s:
        for descendant in _descendants(pid):
            process = Path(f"/proc/{descendant}")
            is_ours = f"Uid:\t{_USER}\t" in (process / "status").read_text(encoding="ascii")
            if is_ours and not (process / "cmdline").read_bytes().startswith(b"buildah"):
                os.kill(descendant, signal.SIGTERM)
                return
        time.sleep(0.05)
    raise SystemExit("no process of the function was found")


def _descendants(pid: int) -> Iterator[int]:
    """Breadth first."""
    waiting = [pid]
    while waiting:
        current = waiting.pop(0)
        for thread in Path(f"/proc/{current}/task").glob("*/children"):  # each thread has those that it started
            with contextlib.suppress(OSError):
                children = [int(child) for child in thread.read_text(encoding="ascii").split()]
                yield from children
                waiting += children


def _paths_named_in(pip_conf: Path) -> list[str]:
    """Files and directories of this machine that pip's configuration points to; of an index, what its links reach."""
    paths = set()
    for word in pip_conf.read_text(encoding="utf-8").split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            paths.add(str(path.parent if word.startswith("file://") else path))
    return sorted(paths)
