"""One load as one process puts it on: its share of the arrivals or of the users' requests, from begin to end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import gevent.pool

from bench.arrivals import Closed, Trace, arrival_times, check_arrivals
from bench.load.alarm import Alarm
from bench.load.asking import Asker
from bench.load.plan import LoadSpec, Share
from bench.record import RequestRecord
from bench.traces import TraceRequest, read_trace
from bench.workload import Questions

WHOLE = Share(index=0, count=1, begins_at_unix_s=0.0)
_PAUSE_S = 0.1
_LEAD_S = 0.1
"""From being made to the begin, so that what is scheduled first is not sent late."""


class Session:
    """A load that runs.

    Attributes:
        spec: of the load.
        is_closed: whether users ask, each when it has its answer.
        began_s: of `time.monotonic`; it may lie ahead, until all processes are there.

    Args:
        spec: what to do.
        on_record: takes each request when it is over.

    Raises:
        BenchError: the target, the arrivals or their trace cannot be.
    """

    def __init__(self, spec: LoadSpec, on_record: Callable[[RequestRecord], None]) -> None:
        check_arrivals(spec.arrivals)
        self.spec = spec
        self.is_closed = isinstance(spec.arrivals, Closed)
        self._share = spec.share or WHOLE
        self._numbers = itertools.count(self._share.index, self._share.count)
        self._trace = _trace(spec)
        questions = Questions(spec.seed, spec.prompt_tokens, spec.output_tokens, spec.prefix, self._trace)
        lead_s = _LEAD_S if spec.share is None else spec.share.begins_at_unix_s - time.time()
        self.began_s = time.monotonic() + lead_s
        self._asker = Asker(spec, questions, self.began_s, on_record)
        self._requests = gevent.pool.Group()

    @property
    def end_s(self) -> float:
        """When the last request may arrive, of `time.monotonic`."""
        return self.began_s + self.spec.window.end_s

    def ask_next(self) -> None:
        """One request of a user, from sending to its end.

        Where nobody answers there, the user waits a little: it would do nothing else, as fast as it can.
        """
        record = self._asker.ask(self._asker.prepare(next(self._numbers)), None)
        if record.failure == "connection":
            gevent.sleep(_PAUSE_S)

    def wait_for_begin(self) -> None:
        """Until all processes begin."""
        gevent.sleep(max(0.0, self.began_s - time.monotonic()))

    def dispatch(self) -> None:
        """Send each request of an open loop when it arrives, in a greenlet of its own, until all have arrived."""
        alarm = Alarm()
        try:
            for number, at_s in self._arrivals():
                request = self._asker.prepare(number)  # made ahead, so that it is not what delays the sending
                alarm.wait_until(self.began_s + at_s)
                self._requests.spawn(self._asker.ask, request, at_s)
        finally:
            alarm.close()

    def finish(self, patience_s: float | None) -> None:
        """Wait for the requests that `dispatch` sent, end those that take longer, and close connections.

        Args:
            patience_s: None waits until the last one has ended or run out of time.
        """
        self._requests.join(timeout=patience_s)
        self._requests.kill()
        self._asker.close()

    def _arrivals(self) -> Iterator[tuple[int, float]]:
        """Number and time of each arrival of our share."""
        spec = self.spec
        assert not isinstance(spec.arrivals, Closed)
        if isinstance(spec.arrivals, Trace):
            assert self._trace is not None
            speed = spec.arrivals.speed
            times: Iterator[float] = (row.at_s / speed for row in self._trace)
        else:
            times = arrival_times(spec.arrivals, spec.window, spec.seed)
        return itertools.islice(enumerate(times), self._share.index, None, self._share.count)


def _trace(spec: LoadSpec) -> tuple[TraceRequest, ...] | None:
    if not isinstance(spec.arrivals, Trace):
        return None
    trace = spec.arrivals
    return read_trace(Path(trace.path), trace.format, spec.window.end_s * trace.speed).requests
