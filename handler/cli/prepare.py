"""`pilotlight prepare MODEL`: makes a snapshot and shows how it goes. Knows terminals, not models.

Progress goes to stderr: a bar on a terminal, one line per step elsewhere, nothing with --json. The result
goes to stdout. Runs in the main thread; errors are the caller's to print.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TextIO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from handler.engine.snapshot import Snapshot
from handler.prepare.progress import NoProgress, Progress
from handler.settings import Settings


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # has no public name
    """Add the `prepare` command."""
    parser = subparsers.add_parser("prepare", help="make a snapshot of a model, so that serving starts at once")
    parser.add_argument("model", nargs="?", help="smollm2-135m, a hub id, a directory or a .gguf file [MODEL_NAME]")
    parser.add_argument("--force", action="store_true", help="make it anew even where an intact one is there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Prepare `args.model`, or the MODEL_NAME of the settings where none is given; returns the exit code.

    Raises:
        SnapshotError: the model cannot be prepared; see the subclasses.
    """
    from handler.prepare.preparation import prepare  # noqa: PLC0415  # imports torch and gguf

    began_s = time.monotonic()
    with _progress(quiet=args.json, stream=sys.stderr) as progress:
        snapshot = prepare(
            args.model or settings.model_name,
            settings.pilotlight_home,
            progress,
            force=args.force,
            with_int8=settings.quantization in {"auto", "int8"},
        )
    sys.stdout.write(_result(snapshot, time.monotonic() - began_s, as_json=args.json))
    return 0


def _result(snapshot: Snapshot, duration_s: float, *, as_json: bool) -> str:
    if as_json:
        result = {
            "name": snapshot.name,
            "directory": str(snapshot.directory),
            "source": snapshot.manifest.source,
            "size_bytes": snapshot.size_bytes,
            "duration_s": round(duration_s, 3),
        }
        return msgspec.json.encode(result).decode() + "\n"
    size = f"{snapshot.size_bytes / 1e6:.0f} MB"
    return f"{snapshot.name} is ready: {snapshot.directory} ({size}, {duration_s:.1f} s)\n"


@contextlib.contextmanager
def _progress(*, quiet: bool, stream: TextIO) -> Iterator[Progress]:
    if quiet:
        yield NoProgress()
    elif stream.isatty():
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            BytesColumn(),
            TimeElapsedColumn(),
        )
        with Bars(*columns, console=Console(file=stream)) as bars:
            progress = BarProgress(bars)
            yield progress
            progress.finish()
    else:
        yield LineProgress(stream)


class BytesColumn(DownloadColumn):
    """How many bytes of how many, where a step counts bytes."""

    def render(self, task: Task) -> Text:
        """Nothing instead of 0 of 0."""
        return super().render(task) if task.completed else Text()


class BarProgress:
    """A line for each step on a terminal, with a bar where its bytes are known."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def step(self, what: str, total_bytes: int | None = None) -> None:
        """Finish the line of the step before, and begin one."""
        self.finish()
        self._task = self._bars.add_task(what, total=total_bytes)

    def advance(self, done_bytes: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, done_bytes)

    def finish(self) -> None:
        """Show the step as done, whatever it knew of its bytes."""
        if self._task is not None:
            self._bars.update(self._task, total=self._bars.tasks[-1].completed)
            self._bars.stop_task(self._task)


class LineProgress:
    """A line of text for each step."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def step(self, what: str, total_bytes: int | None = None) -> None:
        """Print the step, with its size where that is known."""
        size = "" if total_bytes is None else f" ({total_bytes / 1e6:.0f} MB)"
        self._stream.write(f"{what}{size}\n")
        self._stream.flush()

    def advance(self, done_bytes: int) -> None:
        """Print nothing: a log has no use for it."""
