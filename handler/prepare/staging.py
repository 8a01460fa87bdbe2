"""Puts a directory in its place whole or not at all. Knows locks, leftovers and fsync; nothing about models.

A build happens in a hidden directory beside its target and is renamed at the end. A process that dies on the
way leaves only hidden directories, which the next build of the same target removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock


@contextlib.contextmanager
def exclusive(target: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock on `target` among processes; `waiting` is called once where another one holds it.

    The lock file is kept: removing it would let two processes hold locks on two files of one name.

    Raises:
        OSError: the directory cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A fresh directory that becomes `target` when the block ends well, and is removed when it raises.

    The caller holds `exclusive(target)`. What stood at `target` stays until the new directory is complete;
    between the two renames no directory stands there for a moment, and no half-made one ever does.
    """
    remove_leftovers(target)
    building = _hidden(target, "building")
    building.mkdir()
    try:
        yield building
        _sync_tree(building)
        replaced = _hidden(target, "replaced")
        if target.exists():
            target.rename(replaced)
        building.rename(target)
        _sync(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def remove_leftovers(target: Path) -> None:
    """Remove what builds of `target` left that died on the way. The caller holds `exclusive(target)`."""
    for kind in ("building", "replaced"):
        for leftover in target.parent.glob(f".{target.name}.{kind}-*"):
            shutil.rmtree(leftover)


def _hidden(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{uuid.uuid4().hex[:8]}")


def _sync_tree(directory: Path) -> None:
    for path in directory.iterdir():
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
