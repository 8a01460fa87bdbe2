from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
import pytest

from handler.errors import ConfigurationError
from handler.requestlog import installation
from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.installation import find_installation
from handler.requestlog.keeper import account_options
from tests.requestlog.waiting import block_until, until

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

USER = """
import sys
from pathlib import Path
from handler.requestlog.embedded import EmbeddedPostgres
user = EmbeddedPostgres(Path(sys.argv[1]))
try:
    user.start()
    print("started", flush=True)
    for line in sys.stdin:
        pass
except KeyboardInterrupt:
    pass
user.stop()
print("stopped", flush=True)
"""


def call(url: str, sql: str) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        return runner.run(ask())


def postmaster(home: Path) -> psutil.Process:
    pid = (find_installation(home).data / "postmaster.pid").read_text().split("\n")[0]
    return psutil.Process(int(pid))


def ended(process: psutil.Process) -> bool:
    """Whether it is gone, or waits only for an init process to take notice."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def other_process(home: Path):
    """A process, leader of its own group as a shell makes them, that uses the server of `home`."""
    command = [sys.executable, "-c", USER, str(home)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def embedded(home: Path):
    embedded = EmbeddedPostgres(home, server_options=["fsync=off"])
    yield embedded
    embedded.stop()


def test_the_server_starts_stops_and_keeps_its_data(empty_home, capsys):
    home, embedded = empty_home, EmbeddedPostgres(empty_home)
    begin = time.perf_counter()
    url = embedded.start()
    first_s = time.perf_counter() - begin
    call(url, "create table kept as select 42 as answer")
    process = postmaster(home)
    embedded.stop()
    assert ended(process)
    begin = time.perf_counter()
    assert embedded.start() == url
    again_s = time.perf_counter() - begin
    assert call(url, "select answer from kept") == 42
    with capsys.disabled():
        print(f"\nembedded PostgreSQL up in {first_s:.2f} s the first time, then {again_s:.3f} s")  # noqa: T201
    embedded.stop()


def test_starting_and_stopping_may_be_repeated(embedded, home):
    url = embedded.start()
    process = postmaster(home)
    assert embedded.start() == url
    assert postmaster(home) == process
    embedded.stop()
    embedded.stop()
    assert ended(process)


def test_the_server_stops_with_its_last_user_only(embedded, home, caplog):
    url = embedded.start()
    other = EmbeddedPostgres(home)
    assert other.start() == url
    process = postmaster(home)
    embedded.stop()
    assert caplog.records == []  # it did not wait in vain
    assert call(url, "select 1") == 1
    other.stop()
    assert ended(process)


def test_the_server_stops_when_its_last_user_is_killed(embedded, home):
    with other_process(home) as user:
        url = embedded.start()
        process = postmaster(home)
        user.kill()
        user.wait()
        assert call(url, "select 1") == 1
        embedded.stop()
        assert ended(process)

    with other_process(home) as user:
        process = postmaster(home)
        user.kill()
        user.wait()
        block_until(lambda: ended(process))


def test_a_user_may_leave_while_another_process_goes_on(embedded, home):
    with other_process(home) as user:
        embedded.start()
        process = postmaster(home)
        embedded.stop()
        assert process.is_running()
        output, _ = user.communicate("", timeout=30)
        assert output == "stopped\n"
        assert ended(process)


def test_ctrl_c_in_the_terminal_of_one_user_does_not_reach_the_server(embedded, home):
    with other_process(home) as user:  # it has started the server
        url = embedded.start()
        process = postmaster(home)
        os.killpg(user.pid, signal.SIGINT)
        assert user.wait(30) == 0
        assert process.is_running()
        assert call(url, "select 1") == 1


def test_a_server_that_was_killed_is_started_again(embedded, home):
    url = embedded.start()
    call(url, "create table kept as select 42 as answer")
    process = postmaster(home)
    process.kill()
    block_until(lambda: ended(process))
    assert embedded.start() == url
    assert postmaster(home) != process
    assert call(url, "select answer from kept") == 42


def test_a_server_whose_keeper_was_killed_stops_with_its_user(embedded, home):
    url = embedded.start()
    process = postmaster(home)
    keeper = process.parent()
    assert keeper is not None
    keeper.kill()
    block_until(lambda: ended(keeper))
    assert call(url, "select 1") == 1
    embedded.stop()
    assert ended(process)


def test_a_pid_file_left_behind_is_not_taken_for_a_server(embedded, home):
    url = embedded.start()
    pid_file = find_installation(home).data / "postmaster.pid"
    lines = pid_file.read_text().split("\n")
    embedded.stop()
    account = account_options(find_installation(home).account or "")
    with subprocess.Popen(["sleep", "60"], cwd="/", **account) as stranger:  # it got the server's number since
        try:
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
            assert embedded.start() == url
            assert call(url, "select 1") == 1
        finally:
            stranger.kill()


def test_a_first_start_that_was_interrupted_is_repeated(empty_home):
    embedded = EmbeddedPostgres(empty_home)
    half = find_installation(empty_home).base / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18")
    assert call(embedded.start(), "select 1") == 1
    embedded.stop()


def test_a_path_too_long_for_a_socket(empty_home):
    deep = empty_home / ("x" * 100)
    embedded = EmbeddedPostgres(deep)
    try:
        url = embedded.start()
        directory = Path(parse_qs(urlsplit(url).query)["host"][0])
        assert not directory.is_relative_to(empty_home)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert call(url, "select 1") == 1
    finally:
        embedded.stop()
    directory.rmdir()


def test_a_server_that_cannot_start_says_why(home):
    embedded = EmbeddedPostgres(home, server_options=["no_such_option=1"])
    with pytest.raises(ConfigurationError, match="no_such_option"):
        embedded.start()
    embedded.stop()


def test_nothing_installed_is_a_configuration_error(home, monkeypatch):
    monkeypatch.setattr(installation, "_WHEEL", "no_such_wheel")
    with pytest.raises(ConfigurationError, match=r"install pilotlight\[embedded\]") as error:
        EmbeddedPostgres(home)
    assert error.value.key == "DATABASE_URL"


async def test_it_can_be_closed_while_it_starts(home):
    embedded = EmbeddedPostgres(home)
    with (find_installation(home).base / "mutex").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)  # another process is starting or stopping the server
        starting = asyncio.create_task(embedded.url())
        await until(embedded._guard.locked)
        await asyncio.wait_for(embedded.close(), 10)
        with pytest.raises(ConfigurationError, match="being closed"):
            await starting


async def test_a_start_that_nobody_waits_for_gives_up_and_the_next_one_works(embedded, home):
    with (find_installation(home).base / "mutex").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)  # another process is starting or stopping the server
        starting = asyncio.create_task(embedded.url())
        await until(embedded._guard.locked)
        starting.cancel()
        await until(lambda: not embedded._guard.locked())
    assert await embedded.url()


@AS_ROOT
def test_root_opens_no_directory_that_was_private(monkeypatch):
    private = Path(tempfile.mkdtemp(prefix="pilotlight-private-"))
    shared = Path(tempfile.mkdtemp(prefix="pilotlight-shared-"))
    shared.chmod(0o755)
    monkeypatch.setattr(installation, "SHARED_STATE", shared)
    try:
        embedded = EmbeddedPostgres(private / "home")
        url = embedded.start()
        try:
            assert call(url, "select 1") == 1
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            assert not (private / "home" / "postgres").exists()
            (base,) = shared.glob("postgres-*")
            assert stat.S_IMODE((base / "data").stat().st_mode) == 0o700
            assert postmaster(private / "home").username() == installation.ACCOUNT
        finally:
            embedded.stop()
    finally:
        shutil.rmtree(private)
        shutil.rmtree(shared)


@AS_ROOT
def test_root_copies_programs_that_the_account_cannot_reach(monkeypatch):
    private = Path(tempfile.mkdtemp(prefix="pilotlight-private-"))
    shared = Path(tempfile.mkdtemp(prefix="pilotlight-shared-"))
    monkeypatch.setattr(installation, "SHARED_STATE", shared)
    wheel = installation.wheel_directory()
    try:
        shutil.copytree(wheel, private / wheel.name, ignore=shutil.ignore_patterns("pginstall"))
        shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), private / f"{wheel.name}.libs")
        (programs,) = (private / wheel.name).glob("pginstall*/bin")
        copied = installation._reachable_programs(programs)
        assert copied.is_relative_to(shared)
        assert installation._reachable_programs(programs) == copied
        for program in ("postgres", "initdb"):
            done = subprocess.run(
                [copied / program, "--version"],
                check=True,
                capture_output=True,
                cwd="/",
                user=installation.ACCOUNT,
            )
            assert b"PostgreSQL" in done.stdout
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert [path.name for path in shared.iterdir()] == [copied.parents[2].name]
    finally:
        shutil.rmtree(private)
        shutil.rmtree(shared)
