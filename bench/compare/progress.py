"""Says what is being measured, how much is done and how long the rest will take: a bar on a terminal, lines on a pipe.

The time left is what the plan allows the rest, stretched as everything so far has been. Main thread only.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class RunProgress:
    """The display of one run, from entering its `with` block to leaving it.

    Args:
        num_steps: that will begin.
        total_s: the sum of their budgets.
        console: where it shows; stderr, so that results can be piped.
    """

    def __init__(self, num_steps: int, total_s: float, console: Console) -> None:
        self._num_steps = num_steps
        self._total_s = total_s
        self._console = console
        self._began_s = time.monotonic()
        self._num_begun = 0
        self._done_s = self._current_s = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[times]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=num_steps, times="")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def begin(self, step: str, budget_s: float) -> None:
        """The step before is over, and this one begins."""
        self._done_s += self._current_s
        self._current_s = budget_s
        self._num_begun += 1
        times = f"{clock(self.elapsed_s)} elapsed, about {clock(self.left_s)} left"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._num_begun - 1, description=step, times=times)
        else:
            self.say(f"  {step}: {self._num_begun} of {self._num_steps}, {times}")

    def plan_again(self, total_s: float) -> None:
        """The sum of all budgets turns out to be another one."""
        self._total_s = total_s

    def load(self, words: str) -> None:
        """What the step is at: for those who watch a terminal."""
        times = f"{words}; {clock(self.elapsed_s)} elapsed, about {clock(self.left_s)} left"
        self._bar.update(self._task, times=times)

    @property
    def elapsed_s(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began_s

    @property
    def left_s(self) -> float:
        """What is left of the plan, in the time that this machine takes for it."""
        pace = self.elapsed_s / self._done_s if self._done_s else 1.0
        return (self._total_s - self._done_s) * pace


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"
