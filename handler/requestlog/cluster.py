"""The data directory of the embedded PostgreSQL and the server on it: made, spawned, asked, told to end.

Knows nothing of who uses the server, and waits for nothing but `initdb`. Blocking; runs in the worker thread
that starts or stops it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from handler.errors import ConfigurationError
from handler.requestlog.installation import Installation
from handler.requestlog.keeper import account_options

_LONGEST_SOCKET_BYTES = 100  # sun_path holds 104 on macOS, 108 on Linux
_LOG_BYTES = 1024 * 1024
_OPTIONS = (
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "shared_buffers=32MB",
    "io_method=sync",  # the log is written in order and seldom read: no processes for asynchronous reads
    "log_checkpoints=off",
)


def initialise(installation: Installation) -> None:
    """Make the database if there is none; whole, or not at all.

    Raises:
        ConfigurationError: `initdb` failed.
    """
    if (installation.data / "PG_VERSION").exists():
        return
    # PG_VERSION is written early: an initdb that was killed must not look like a database.
    fresh = installation.base / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    _hand_over(fresh, installation.account)
    done = subprocess.run(  # noqa: S603 - the wheel's program
        [
            installation.programs / "initdb",
            *("-D", fresh, "-U", "postgres"),
            *("--auth=trust", "--encoding=UTF8", "--no-locale", "--no-instructions"),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C"},
        **account_options(installation.account or ""),
    )
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())
        raise ConfigurationError("DATABASE_URL", f"embedded PostgreSQL cannot be made in {fresh}: {reason}")
    fresh.rename(installation.data)


def spawn_server(installation: Installation, alive: int, options: Sequence[str]) -> None:
    """Start the keeper, and through it the server. Nobody else runs one: the caller holds the lock `alive`.

    Args:
        installation: the database must exist.
        alive: a descriptor that all processes of the server keep open for as long as they live.
        options: `name=value` settings beside our own.
    """
    (installation.data / "postmaster.pid").unlink(missing_ok=True)  # of a server that was killed
    log = installation.base / "server.log"
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.unlink()
    settings = [part for option in (*_OPTIONS, *options) for part in ("-c", option)]
    keeper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py"))]
    watched = [str(installation.base / "lease"), str(log), installation.account or "", str(alive)]
    server = [str(installation.programs / "postgres"), "-D", str(installation.data)]
    process = subprocess.Popen(  # noqa: S603 - our own script and the wheel's program
        [*keeper, *watched, *server, "-k", str(socket_directory(installation)), *settings],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        pass_fds=[alive],
        start_new_session=True,
    )
    # Reaps it whenever it ends: it may outlive this user, and must not stay behind as a zombie.
    threading.Thread(target=process.wait, name="postgres-keeper", daemon=True).start()


def is_ready(installation: Installation) -> bool:
    """Whether the server says so itself, in line 8 of postmaster.pid as pg_ctl expects it, and listens.

    It may have been killed since it said so, with some of its processes still on their way out.
    """
    try:
        lines = (installation.data / "postmaster.pid").read_text().splitlines()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(socket_directory(installation) / ".s.PGSQL.5432"))
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def ask_to_end(data: Path) -> None:
    """Send the running server on `data` the signal for a fast shutdown."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int((data / "postmaster.pid").read_text().partition("\n")[0]), signal.SIGINT)


def socket_directory(installation: Installation) -> Path:
    """The data directory, or where its path is too long for a socket, a private one below /tmp.

    Raises:
        ConfigurationError: that one exists and belongs to somebody else.
    """
    if len(os.fsencode(installation.data / ".s.PGSQL.5432")) <= _LONGEST_SOCKET_BYTES:
        return installation.data
    name = hashlib.sha256(os.fsencode(installation.base)).hexdigest()[:12]
    directory = Path(f"/tmp/pilotlight-{os.geteuid()}-{name}")  # noqa: S108 - owner and mode are checked below
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        _hand_over(directory, installation.account)
    found = directory.lstat()
    owner = pwd.getpwnam(installation.account).pw_uid if installation.account else os.geteuid()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise ConfigurationError("DATABASE_URL", f"{directory} is not private to the embedded PostgreSQL")
    return directory


def last_log_line(installation: Installation) -> str:
    """Where the server's log is, and how it ends, as part of an error message."""
    log = installation.base / "server.log"
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "nothing")
    return f"{log} ends with: {last}"


def _hand_over(directory: Path, account: str | None) -> None:
    if account is not None:
        entry = pwd.getpwnam(account)
        os.chown(directory, entry.pw_uid, entry.pw_gid)
