"""How the function and its disk can end, under load and on a real server: no answer without its row, or its line."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
import pytest

from handler.requestlog.record import Record
from handler.requestlog.spill import MESSAGE
from tests.requestlog.load import Load
from tests.requestlog.outage import ANSWERS, Database, function, met
from tests.requestlog.proxy import Proxy
from tests.requestlog.test_spool import segments
from tests.server import ServerProcess, until

NOBODY = "postgresql://127.0.0.1:1/none"
NOT_SPOOLED = "record not spooled"
SMALL_BYTES = 128 * 1024


async def test_a_function_that_is_killed(database: Database, proxy: Proxy, tmp_path: Path) -> None:
    async with function(tmp_path, proxy.url) as process, Load(process.address, may_break=True) as load:
        await load.more(ANSWERS)
        process.kill()
    async with function(tmp_path, proxy.url):
        await database.holds(load.whole)
    assert list((tmp_path / "spool").iterdir()) == []


async def test_a_function_that_is_killed_while_its_database_is_away(
    database: Database, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.hang()
    async with function(tmp_path, proxy.url) as process, Load(process.address, may_break=True) as load:
        await load.more(ANSWERS)
        process.kill()
    proxy.recover()
    async with function(tmp_path, proxy.url):
        await database.holds(load.whole)
    assert list((tmp_path / "spool").iterdir()) == []


class SmallDisk(NamedTuple):
    """A way to give the spool little room."""

    environ: dict[str, str]
    shrink: Callable[[ServerProcess], None]
    grow: Callable[[ServerProcess], None]


@pytest.fixture(params=["full file system", "limit of the process", "SPOOL_MAX_BYTES"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    def nothing(_: ServerProcess) -> None:
        pass

    def limit(num_bytes: int) -> Callable[[ServerProcess], None]:
        def set_limit(process: ServerProcess) -> None:
            psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

        return set_limit

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", spool], check=True, capture_output=True)

    spool = tmp_path / "spool"
    if request.param == "limit of the process":
        yield SmallDisk({}, limit(SMALL_BYTES), limit(resource.RLIM_INFINITY))
    elif request.param == "SPOOL_MAX_BYTES":
        yield SmallDisk({"SPOOL_MAX_BYTES": str(1 << 20)}, nothing, nothing)
    else:
        spool.mkdir()
        try:
            mount(f"size={SMALL_BYTES}")
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a tmpfs cannot be mounted here")
        yield SmallDisk({}, nothing, lambda _: mount("remount,size=16m"))
        subprocess.run(["umount", spool], check=True)


async def test_a_disk_that_is_full(database: Database, proxy: Proxy, tmp_path: Path, small_disk: SmallDisk) -> None:
    proxy.hang()
    async with function(tmp_path, proxy.url, small_disk.environ) as process, Load(process.address) as load:
        small_disk.shrink(process)
        await until(lambda: met(bool(process.entries(NOT_SPOOLED))), "the disk is full")
        await load.more(ANSWERS)
        proxy.recover()
        small_disk.grow(process)
        await until(lambda: met(not segments_hold(tmp_path)), "there is room again")
        told = len(process.entries(NOT_SPOOLED))
        await load.more(ANSWERS)
    lines = [msgspec.convert(entry, Record, strict=False) for entry in process.entries(NOT_SPOOLED)]
    assert len(lines) >= told >= ANSWERS // 2
    refused = {line.request_id for line in lines}
    assert len(refused) == len(lines)
    assert refused <= set(load.whole)
    assert {line.completion_tokens for line in lines} == {8}
    await database.holds([answer for answer in load.whole if answer not in refused])
    assert await database.rows(list(refused)) == 0


def segments_hold(directory: Path) -> bool:
    """Whether there is more in the spool than what is on its way."""
    num_bytes = 0
    for path in segments(directory / "spool"):
        with contextlib.suppress(FileNotFoundError):  # it was on its way, and has arrived
            num_bytes += path.stat().st_size
    return num_bytes > SMALL_BYTES // 2


async def test_a_database_that_was_never_there(database: Database, proxy: Proxy, tmp_path: Path) -> None:
    async with function(tmp_path, NOBODY) as process, Load(process.address) as load:
        await load.more(2 * ANSWERS)
    assert not process.entries(MESSAGE)
    async with function(tmp_path, proxy.url):
        await database.holds(load.whole)


async def test_a_database_that_was_never_there_and_no_disk_that_stays(tmp_path: Path) -> None:
    async with function(tmp_path, NOBODY, {"SPOOL_DIR": ""}) as process, Load(process.address) as load:
        await load.more(2 * ANSWERS)
    entries = process.entries(MESSAGE)
    assert sum("phases" in entry for entry in entries) == 1  # the boot
    lines = [msgspec.convert(entry, Record, strict=False) for entry in entries if "request_id" in entry]
    assert sorted(line.request_id for line in lines) == sorted(load.whole)
    assert len({line.id for line in lines}) == len(lines)
    assert segments(tmp_path / "home" / "spool") == []
