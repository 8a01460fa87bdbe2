"""How fast the request log is written: two processes that do nothing else, in turns, into one PostgreSQL."""

from __future__ import annotations

import contextlib
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bench.errors import BenchError
from bench.gate.blame import SIDES, blaming
from bench.gate.installation import Installation
from bench.gate.metrics import LOG_ROWS, Metric
from bench.gate.pair import Pair, abba
from bench.gate.plan import Plan
from bench.gate.turns import neighbours
from bench.log.postgres import Postgres

_WARM_TURNS = 2
_GRACE_S = 30.0
_LOG_BYTES = 1500


class _Shipper:
    """One process, which ships when it is told to."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def take_turn(self) -> float:
        """Seconds until its records were rows.

        Raises:
            BenchError: it has ended, with the end of what it said.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait(_GRACE_S)
            raise BenchError(f"the shipping ended with {code}:\n{self._log.read_text(errors='replace')[-_LOG_BYTES:]}")
        return float(line)


def fight(sides: Pair[Installation], plan: Plan, rng: random.Random, postgres: Postgres) -> dict[Metric, Pair[float]]:
    """One round: both are started anew, and ship the same number of records in each turn.

    Raises:
        SideError: one of them failed.
        BenchError: there are more or fewer rows than there were records.
    """
    postgres.empty()
    seconds: Pair[list[float]] = Pair([], [])
    with contextlib.ExitStack() as stack:
        shippers = sides.each(lambda side: stack.enter_context(_running(side, plan, postgres)))
        for name, shipper in zip(SIDES, shippers, strict=True):
            with blaming(name):
                for _ in range(_WARM_TURNS):
                    shipper.take_turn()
        for side in abba(plan.log_turns, rng):
            with blaming(SIDES[side]):
                seconds[side].append(shippers[side].take_turn())
    rows, expected = postgres.count_rows(), 2 * (plan.log_turns + _WARM_TURNS) * plan.records
    if rows != expected:
        raise BenchError(f"{rows} rows of {expected} records")
    return {LOG_ROWS: neighbours(seconds).each(lambda turn_s: plan.records / turn_s)}


@contextlib.contextmanager
def _running(side: Installation, plan: Plan, postgres: Postgres) -> Iterator[_Shipper]:
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        log = Path(directory) / "log"
        with log.open("wb") as file:
            process = _start(side, plan, postgres, Path(directory) / "spool", file)
        try:
            yield _Shipper(process, log)
        finally:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _start(side: Installation, plan: Plan, postgres: Postgres, spool: Path, log: IO[bytes]) -> subprocess.Popen[str]:
    command = [*side.command("bench.gate.shipper"), postgres.url, str(spool), str(plan.records)]
    return subprocess.Popen(  # noqa: S603  (our own arguments)
        command,
        env=side.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
