"""A copy of the repository, to which commits are added that do nothing, or that slow the function down."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
from pathlib import Path

import msgspec

from bench.children import OWN_MODULE, own_environment
from bench.gate import micro_duel
from bench.gate.git import resolve
from bench.gate.injections import Injection
from bench.gate.installation import install
from bench.gate.metrics import micro
from bench.gate.pair import Pair
from bench.gate.plan import Plan
from bench.gate.result import GateResult
from bench.gate.statistics import slowdowns
from handler.settings import Settings

_TIMEOUT_S = 1800.0
_AUTHOR = ("-c", "user.name=validation", "-c", "user.email=validation@localhost")


class Clone:
    """HEAD of the copy is its base with one change; `base` is the commit that was checked out in the repository."""

    def __init__(self, repository: Path, directory: Path) -> None:
        self._directory = directory
        subprocess.run(["git", "clone", "--quiet", "--shared", str(repository), str(directory)], check=True)  # noqa: S603, S607
        self.base = self._git("rev-parse", "HEAD")

    def change_comment(self) -> None:
        """Have HEAD differ from the base by a comment."""
        path = self._reset() / "handler" / "errors.py"
        path.write_text(path.read_text(encoding="utf-8") + "\n# Nothing.\n", encoding="utf-8")
        self._commit("Change a comment")

    def inject(self, injection: Injection, amount: int) -> None:
        """Have HEAD be slower than the base by an amount."""
        path = self._reset() / injection.file
        path.write_text(injection.apply(path.read_text(encoding="utf-8"), amount), encoding="utf-8")
        self._commit(f"Slow down {injection.name}")

    def has_function_of(self, revision: str) -> bool:
        """Whether the base's function is that of another revision, to the byte; False for one that is not here."""
        command = ["git", "-C", str(self._directory), "diff", "--quiet", revision, self.base, "--", "handler"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603

    def gate(self, *options: str) -> GateResult:
        """What the gate says of HEAD, run as a user would run it.

        Raises:
            SystemExit: it said nothing.
        """
        command = [*OWN_MODULE, "handler", "bench", "gate", self.base, "HEAD", "--json", *options]
        done = subprocess.run(  # noqa: S603  (our own arguments)
            command, cwd=self._directory, env=own_environment(), capture_output=True, timeout=_TIMEOUT_S, check=False
        )
        if done.returncode not in {0, 1} or not done.stdout:
            raise SystemExit(f"the gate ended with {done.returncode}:\n{done.stderr.decode()[-2000:]}")
        return msgspec.json.decode(done.stdout, type=GateResult)

    def time(self, path: str, num_rounds: int) -> float:
        """How much slower a micro path of HEAD is, by time: median of so many rounds.

        Raises:
            BenchError: it failed.
        """
        cache = Settings.from_env(os.environ).pilotlight_home / "gate"
        sides = Pair(self.base, "HEAD").each(
            lambda name: install(self._directory, resolve(self._directory, name), cache)
        )
        core = min(os.sched_getaffinity(0))
        plan = Plan(duels=(), looks=(), budget_s=0.0, paths={path: 1}, server_core=core, load_core=core, seed=0)
        rng, metric = random.Random(plan.seed), micro(path, "sampled")  # noqa: S311  (an order)
        rounds = [micro_duel.fight(sides, plan, rng)[metric] for _ in range(num_rounds)]
        base, head = zip(*rounds, strict=True)
        return statistics.median(slowdowns(metric, Pair(base, head)))

    def _reset(self) -> Path:
        self._git("reset", "--quiet", "--hard", self.base)
        return self._directory

    def _commit(self, message: str) -> None:
        self._git(*_AUTHOR, "commit", "--quiet", "--all", "--message", message)

    def _git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self._directory), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
