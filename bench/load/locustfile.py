"""The load engine as Locust runs it: `locust -f bench/load/locustfile.py --host http://127.0.0.1:8000`.

In a closed loop Locust's users ask. In an open one a dispatcher in each process does, and one user is enough: the rate
is that of `--arrivals`, whatever the number of users. Of several processes each takes every n-th arrival.
"""

from __future__ import annotations

from bench.load.users import ChatUser  # isort: skip  (Locust replaces parts of what is imported after it)

import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import gevent
import msgspec
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from bench.errors import BenchError
from bench.load.entries import Entries
from bench.load.options import add_load_options, spec_of
from bench.load.plan import LoadSpec, Share
from bench.load.raw import RawLog
from bench.load.session import Session
from bench.load.target import first_model, parse_target
from bench.record import RequestRecord

_SHARE = "pilotlight_share"
_LEAD_S = 1.0
"""From the master's word to the begin: time for it to get to every worker."""


def _declare(parser: LocustArgumentParser) -> None:
    """Options of ours, which Locust's web page shows as well."""
    parser.add_argument("--model", default="", help="its name in requests (the first that the server lists)")
    parser.add_argument("--api-key", default="", env_var="OPENAI_API_KEY", is_secret=True, help="sent in each request")
    add_load_options(parser)


def _watch(environment: Environment, **_: Any) -> None:
    """Have each test of this process put its load on."""
    load = _Load(environment)
    environment.events.test_start.add_listener(load.start)  # type: ignore[no-untyped-call]
    environment.events.test_stop.add_listener(load.stop)  # type: ignore[no-untyped-call]
    if isinstance(environment.runner, WorkerRunner):
        environment.runner.register_message(_SHARE, load.take_share)
    if not isinstance(environment.runner, WorkerRunner) and getattr(environment.parsed_options, "headless", False):
        try:
            load.check()
        except BenchError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(2)


class _Load:
    """The load of this process, from one start of a test to its stop."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._share: Share | None = None
        self._session: Session | None = None
        self._dispatcher: Any = None
        self._raw: RawLog | None = None

    def check(self) -> None:
        """Refuse options that cannot be, before anything runs.

        Raises:
            BenchError: saying which.
        """
        self._spec("any")

    def take_share(self, environment: Environment, msg: Any, **_: Any) -> None:
        """A worker learns which arrivals are its own, and how long the test is, which Locust tells its master only."""
        assert environment.parsed_options is not None
        environment.parsed_options.run_time = msg.data["run_time_s"]
        self._share = Share(**msg.data["share"])

    def start(self, environment: Environment, **_: Any) -> None:
        """Begin; a master only tells its workers to."""
        runner = environment.runner
        if isinstance(runner, MasterRunner):
            _share_out(runner)
            return
        try:
            self._begin(environment)
        except BenchError as error:
            logging.getLogger(__name__).error("%s", error)  # noqa: TRY400  (the user's mistake, not ours)
            assert runner is not None
            gevent.spawn(runner.quit)

    def stop(self, environment: Environment, **_: Any) -> None:
        """End what still runs, once it has had the time that `--stop-timeout` gives."""
        if self._session is None:
            return
        if self._dispatcher is not None:
            self._dispatcher.kill()
        self._session.finish(environment.stop_timeout)
        if self._raw is not None:
            self._raw.close()
        self._session = self._dispatcher = self._raw = None

    def _begin(self, environment: Environment) -> None:
        options = environment.parsed_options
        assert options is not None
        host = environment.host or ""
        model = options.model or first_model(parse_target(host), options.api_key or None)
        spec = self._spec(model)
        entries = Entries(environment.events.request, spec.objectives, is_open=options.arrivals not in {"", "closed"})
        self._raw = None if spec.raw is None else RawLog(_own_file(Path(spec.raw), self._share))

        def on_record(record: RequestRecord) -> None:
            if self._raw is not None:
                self._raw.write(record)
            if spec.window.holds(record.scheduled_s):
                entries.add(record)

        ChatUser.session = self._session = Session(spec, on_record)
        if not self._session.is_closed:
            self._dispatcher = gevent.spawn(self._dispatch, self._session)

    def _dispatch(self, session: Session) -> None:
        session.wait_for_begin()
        session.dispatch()

    def _spec(self, model: str) -> LoadSpec:
        options = self._environment.parsed_options
        assert options is not None
        # A share begins later than Locust's own time does, and ends with it.
        lead_s = 0.0 if self._share is None else _LEAD_S
        spec = spec_of(
            options,
            url=self._environment.host or "",
            model=model,
            api_key=options.api_key or None,
            users=options.num_users or 1,
            length_s=float(options.run_time or math.inf) - lead_s,
            includes_ends=True,
        )
        return msgspec.structs.replace(spec, share=self._share)


def _share_out(runner: MasterRunner) -> None:
    """Tell every worker its part; what is sent first is there first, so it knows before its users come."""
    workers = sorted(runner.clients.ready + runner.clients.running + runner.clients.spawning, key=lambda each: each.id)
    assert runner.environment.parsed_options is not None
    run_time_s = runner.environment.parsed_options.run_time
    begins_at = time.time() + _LEAD_S
    for index, worker in enumerate(workers):
        share = {"index": index, "count": len(workers), "begins_at_unix_s": begins_at}
        runner.send_message(_SHARE, {"share": share, "run_time_s": run_time_s}, client_id=worker.id)


def _own_file(path: Path, share: Share | None) -> Path:
    """Of several processes each writes its own."""
    return path if share is None else path.with_suffix(f".{share.index}{path.suffix}")


events.init_command_line_parser.add_listener(_declare)  # type: ignore[no-untyped-call]
events.init.add_listener(_watch)  # type: ignore[no-untyped-call]
