"""Says where the time of a decode step goes: by stage, by torch operator, by Python function.

The stage clock costs next to nothing; the two profilers slow a step down, so their shares are good and their times are
upper bounds. A kernel that torch does not know (a library of our own) shows up under the Python function that calls it.
"""

from __future__ import annotations

import cProfile
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import handler
from bench.engine.driver import RunningBatch
from bench.engine.stages import StageClock

_ROWS = 15


def profile_steps(batch: RunningBatch, num_tokens: int) -> dict[str, Any]:
    """Milliseconds of an average step: all of it, by stage, by operator, by function."""
    return {
        "stages": stage_split(batch, num_tokens),
        "operators": operator_split(batch, num_tokens),
        "functions": function_split(batch, num_tokens),
    }


def stage_split(batch: RunningBatch, num_tokens: int) -> dict[str, float]:
    """`step_ms` is the whole; `other_ms` what is in no stage; `host_ms` all but the wait for the device."""
    with StageClock() as clock:
        sample = batch.decode(num_tokens)
    steps = len(sample.step_s)
    step_ms = sum(sample.step_s) / steps * 1e3
    split = {f"{stage}_ms": seconds / steps * 1e3 for stage, seconds in clock.seconds.items()}
    return {
        "step_ms": step_ms,
        **split,
        "other_ms": step_ms - sum(split.values()),
        "host_ms": step_ms - split["wait_ms"],
    }


def operator_split(batch: RunningBatch, num_tokens: int) -> list[dict[str, Any]]:
    """Operators by their own time on the device where there is one, else on the CPU."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        steps = len(batch.decode(num_tokens).step_s)
    rows = [
        {
            "name": row.key,
            "calls_per_step": row.count / steps,
            "cpu_ms_per_step": row.self_cpu_time_total / steps / 1e3,
            "device_ms_per_step": row.self_device_time_total / steps / 1e3,
        }
        for row in profiler.key_averages()
    ]
    rows.sort(key=lambda row: (row["device_ms_per_step"], row["cpu_ms_per_step"]), reverse=True)
    return rows[:_ROWS]


def function_split(batch: RunningBatch, num_tokens: int) -> list[dict[str, Any]]:
    """Python functions, and those of extensions, by their own time."""
    profiler = cProfile.Profile()
    profiler.enable()
    steps = len(batch.decode(num_tokens).step_s)
    profiler.disable()
    rows: list[dict[str, Any]] = [
        {
            "name": _name(entry.code),
            "calls_per_step": entry.callcount / steps,
            "ms_per_step": entry.inlinetime / steps * 1e3,
        }
        for entry in profiler.getstats()
    ]
    rows.sort(key=lambda row: row["ms_per_step"], reverse=True)
    return rows[:_ROWS]


def _name(code: CodeType | str) -> str:
    """Where a function of Python's is, without the machine's directories; what an extension calls its own."""
    if isinstance(code, str):
        return code
    path, root = Path(code.co_filename), Path(handler.__file__).parent.parent
    file = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return f"{file}:{code.co_firstlineno} {code.co_qualname}"
