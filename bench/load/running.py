"""One load in a process of its own: `python -m bench.load.running SPEC ANSWER`, a `LoadSpec` and a `LoadAnswer`.

Both are JSON. A process with a share of a load answers for that, and leaves its records in `raw` for the sum.
"""

from __future__ import annotations

from bench.load.users import ChatUser  # isort: skip  (Locust replaces parts of what is imported after it)

import gc
import os
import sys
import time
from pathlib import Path

import gevent
import msgspec
from locust.env import Environment
from locust.event import Events

from bench.arrivals import Closed
from bench.load.plan import LoadAnswer, LoadSpec
from bench.load.raw import write_records
from bench.load.session import WHOLE, Session
from bench.load.summary import answer_of
from bench.record import RequestRecord

_POLL_S = 0.05


def main() -> None:
    """Read the load, put it on, write what it came to."""
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=LoadSpec)
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(run(spec)))


def run(spec: LoadSpec) -> LoadAnswer:
    """Put the load on, from its warm-up until its last request has ended.

    Raises:
        BenchError: the load cannot be.
    """
    if spec.core is not None:
        os.sched_setaffinity(0, {spec.core})
    _calm_collector()
    records: list[RequestRecord] = []
    session = Session(spec, records.append)
    usage = gevent.spawn(_cpu_share, session)
    if isinstance(spec.arrivals, Closed):
        _run_users(session, spec.arrivals.users)
    else:
        session.wait_for_begin()
        session.dispatch()
        session.finish(None)
    cpu_share = usage.get()
    if spec.raw is not None:
        write_records(Path(spec.raw), records)
    return answer_of(records, spec, cpu_share)


def _run_users(session: Session, num_users: int) -> None:
    """Locust's users, all from the beginning."""
    share = session.spec.share or WHOLE
    num_users = len(range(share.index, num_users, share.count))
    ChatUser.session = session
    patience_s = session.spec.timeout_s + 1.0
    environment = Environment(user_classes=[ChatUser], events=Events(), stop_timeout=patience_s)  # type: ignore[no-untyped-call]
    runner = environment.create_local_runner()
    runner.start(num_users, spawn_rate=num_users)
    gevent.sleep(max(0.0, session.end_s - time.monotonic()))
    runner.stop()
    runner.quit()
    session.finish(None)


def _cpu_share(session: Session) -> float:
    """Of one processor, over the measured time."""
    window = session.spec.window
    gevent.sleep(max(0.0, session.began_s + window.warm_up_s - time.monotonic()))
    before_s, before_cpu_s = time.monotonic(), time.process_time()
    gevent.sleep(window.duration_s)
    return (time.process_time() - before_cpu_s) / (time.monotonic() - before_s)


def _calm_collector() -> None:
    """Nothing that is there now becomes garbage, and records refer to nothing that could be a cycle."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


if __name__ == "__main__":
    main()
