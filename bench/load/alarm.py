"""Wakes a greenlet at a moment, some tens of microseconds late. Linux.

gevent's own timers end with the wait for sockets, which epoll counts in whole milliseconds, rounded up: half a
millisecond late on average is more than a quick server takes for the whole request. So this is one of the kernel's
high-resolution timers behind a descriptor (timerfd_create(2)), which Python has since 3.13 only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from typing import Any

import gevent

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000
_READ = 1


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


class Alarm:
    """For one greenlet. Close it in the end.

    Raises:
        OSError: the system gives no timer.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._descriptor < 0:
            self._fail()
        self._watcher: Any = gevent.get_hub().loop.io(self._descriptor, _READ)

    def wait_until(self, moment_s: float) -> None:
        """Wait for a moment of `time.monotonic`. One that has passed lets others run, and returns.

        Raises:
            OSError: the timer cannot be set.
        """
        if moment_s <= time.monotonic():
            gevent.sleep(0)
            return
        seconds, nanoseconds = divmod(round(moment_s * 1e9), 10**9)
        timer = _Timer(_Time(0, 0), _Time(seconds, nanoseconds))
        if self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(timer), None):
            self._fail()
        gevent.get_hub().wait(self._watcher)
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)  # or it would be ready for ever

    def close(self) -> None:
        """Give the timer back."""
        self._watcher.stop()
        self._watcher.close()
        os.close(self._descriptor)

    def _fail(self) -> None:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
