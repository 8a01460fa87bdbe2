"""Which devices the engines run on, and what an engine's thread must set before it computes on one.

Importing this module imports no torch; calling its functions does.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from handler.boot import BootTimeline
from handler.engine.lean_torch import complete_torch, import_torch
from handler.engine.options import EngineOptions

_CONTROL_GROUP = Path("/sys/fs/cgroup")


class Placement(msgspec.Struct, frozen=True):
    """Where one engine runs: a device by torch's name, and CPU threads; None leaves their number to torch."""

    device: str
    num_threads: int | None = None


def place_engines(options: EngineOptions) -> list[Placement]:
    """One placement for each device that `options.device` names, all checked before any engine boots.

    `auto` is every visible CUDA device, or the CPU where there is none; `cuda` is every visible CUDA device; a list
    names some of them. Several engines share the CPU's threads: what they compute there is little, and threads that
    outnumber the cores wait for each other in every operation.

    Raises:
        ConfigurationError: a device does not exist here, or a choice does not go with one.
    """
    import_torch()  # not before: the process listens already
    import torch  # noqa: PLC0415

    from handler.engine import loading  # noqa: F401, PLC0415  (once, here, for all engines that boot next)
    from handler.engine.precision import resolve_precision  # noqa: PLC0415

    devices = options.device.split(",")
    if options.device in {"auto", "cuda"} and torch.cuda.is_available():
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    elif options.device == "auto":
        devices = ["cpu"]
    if devices != ["cpu"]:
        complete_torch()  # what CUDA's libraries import next may ask for it
    for device in devices:
        resolve_precision(msgspec.structs.replace(options, device=device))
    available = torch.get_num_threads()
    allowed = control_group_cpus(_CONTROL_GROUP)
    num_threads = available if allowed is None else min(available, max(1, math.ceil(allowed)))
    if len(devices) == 1:
        return [Placement(devices[0], None if num_threads == available else num_threads)]
    return [Placement(device, max(1, num_threads // len(devices))) for device in devices]


def control_group_cpus(directory: Path) -> float | None:
    """How many CPUs' time a control group (version 2) may take, None without a limit. torch counts cores only.

    A container with two CPUs of a machine of 64 would else compute in 64 threads that wait for each other.
    """
    try:
        quota, period = (directory / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no control group, or "max": no limit
        return None


def enter_device(device: str, num_threads: int | None, timeline: BootTimeline) -> None:
    """Prepare the calling thread for computing on `device`: torch keeps both settings per thread.

    The first one to ask something of a GPU makes its context: a phase of the boot.
    """
    import torch  # noqa: PLC0415

    if num_threads is not None:
        torch.get_num_threads()  # a thread's first question adopts the number that any thread set last
        torch.set_num_threads(num_threads)
    if device.startswith("cuda:"):
        with timeline.phase("context"):
            torch.cuda.set_device(device)
            torch.cuda.synchronize(device)
