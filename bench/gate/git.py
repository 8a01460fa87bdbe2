"""What the gate asks of git."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.gate.result import Revision
from handler.errors import ConfigurationError

_TIMEOUT_S = 60.0


def repository_at(directory: Path) -> Path:
    """Top of the checkout that a directory lies in.

    Raises:
        ConfigurationError: it lies in none, or there is no git.
    """
    return Path(_git(directory, "rev-parse", "--show-toplevel"))


def resolve(repository: Path, name: str) -> Revision:
    """The commit that a name stands for.

    Raises:
        ConfigurationError: it stands for none.
    """
    commit = _git(repository, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
    return Revision(name=name, commit=commit, subject=_git(repository, "log", "-1", "--format=%s", commit))


def is_modified(repository: Path) -> bool:
    """Whether tracked files differ from the commit that is checked out."""
    return bool(_git(repository, "status", "--porcelain", "--untracked-files=no"))


def object_id(repository: Path, commit: str, path: str) -> str:
    """Hash of a file's or a directory's content in a commit; empty where there is none."""
    return _git(repository, "ls-tree", "--format=%(objectname)", commit, "--", path)


def archive(repository: Path, commit: str, directory: Path) -> None:
    """Write all files of a commit into a directory.

    Raises:
        ConfigurationError: git failed.
    """
    tarball = directory.with_suffix(".tar")
    try:
        _git(repository, "archive", "--format=tar", f"--output={tarball}", commit)
        shutil.unpack_archive(tarball, directory, "tar", filter="data")
    finally:
        tarball.unlink(missing_ok=True)


def _git(directory: Path, *arguments: str) -> str:
    program = shutil.which("git")
    if program is None:
        raise ConfigurationError("bench gate", "needs git, which is not installed")
    try:
        done = subprocess.run(  # noqa: S603  (our own arguments; names of revisions cannot become options)
            [program, "-C", str(directory), *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except subprocess.CalledProcessError as error:
        raise ConfigurationError("bench gate", f"git {arguments[0]}: {error.stderr.strip()}") from error
    return done.stdout.strip()
