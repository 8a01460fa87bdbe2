"""The parent process of the embedded PostgreSQL, run as a script with nothing but the standard library.

It owns one duty: the server must not outlive its last user, even if that user was killed. Users hold a shared
lock on the lease file; the kernel takes it from them however they end, and then this process gets its
exclusive one and shuts the server down. It leads a session of its own, so that Ctrl-C in a terminal reaches
neither it nor the server, and it ignores SIGTERM: its end is the server's end.

Arguments: the lease file, the log file, the system account or "", the descriptor that marks the server as
alive (every server process inherits it), then the command line of the server.
"""

import fcntl
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

FAST_SHUTDOWN_S = 10.0


def account_options(account: str) -> dict[str, Any]:
    """What `subprocess` needs to run a program as the system account `account`; "" is our own."""
    if not account:
        return {}
    return {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []}


def _stop_when_unused(lease: str, server: subprocess.Popen[bytes]) -> None:
    with Path(lease).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        server.send_signal(signal.SIGINT)  # fast: roll back, write a checkpoint, leave
        time.sleep(FAST_SHUTDOWN_S)
        server.send_signal(signal.SIGQUIT)  # immediate: the next start recovers from the write-ahead log


def main(lease: str, log: str, account: str, alive: str, *command: str) -> None:
    """Run the server until it ends, or until nobody holds the lease."""
    os.umask(0o077)
    with Path(log).open("ab") as output:
        server = subprocess.Popen(  # noqa: S603 - the wheel's program
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            pass_fds=[int(alive)],
            **account_options(account),
        )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_stop_when_unused, args=(lease, server), daemon=True).start()
    server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
