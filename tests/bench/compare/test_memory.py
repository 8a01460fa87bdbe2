"""The memory of real processes."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from bench.compare.memory import Memory, MemoryPeak, ProcessMemory, read_memory

_MEBIBYTE = 1 << 20
_PARENT = """
import os, sys
shared = bytearray(os.urandom(64 << 20))
child = os.fork()
if child == 0:
    own = bytearray(os.urandom(16 << 20))
print("ready", flush=True)
sys.stdin.read()
"""


def test_pages_that_a_parent_and_its_child_share_count_once() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        memory = read_memory(process.pid)
        process.stdin.close()
    assert len(memory.processes) == 2
    assert 80 * _MEBIBYTE < memory.rss_bytes < 120 * _MEBIBYTE  # with an interpreter or two
    assert sum(each.rss_bytes for each in memory.processes) > 144 * _MEBIBYTE


def test_the_peak_is_the_largest_sample() -> None:
    with MemoryPeak(psutil.Process().pid) as peak:
        pass
    assert peak.samples
    assert peak.highest in peak.samples
    assert peak.highest is not None
    assert peak.highest.rss_bytes == max(memory.rss_bytes for memory in peak.samples)


def test_a_process_that_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(psutil.NoSuchProcess):
        read_memory(process.pid)
    with MemoryPeak(process.pid) as peak:
        pass
    assert peak.highest is None


def test_one_process_counts_with_all_it_has() -> None:
    assert Memory(processes=(ProcessMemory(rss_bytes=5, uss_bytes=2, pss_bytes=3),)).rss_bytes == 5
