"""Which devices the engines run on, and what an engine's thread must set before it computes on one.

Importing this module imports no torch; calling its functions does.
"""

from __future__ import annotations

import msgspec

from handler.engine.types import EngineOptions


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
    import torch  # noqa: PLC0415  (the process listens before this is imported)

    from handler.engine import core  # noqa: F401, PLC0415  (once, here, for all engines that boot next)
    from handler.engine.precision import resolve_precision  # noqa: PLC0415

    devices = options.device.split(",")
    if options.device in {"auto", "cuda"} and torch.cuda.is_available():
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    elif options.device == "auto":
        devices = ["cpu"]
    for device in devices:
        resolve_precision(msgspec.structs.replace(options, device=device))
    if len(devices) == 1:
        return [Placement(devices[0])]
    num_threads = max(1, torch.get_num_threads() // len(devices))
    return [Placement(device, num_threads) for device in devices]


def enter_device(device: str, num_threads: int | None) -> None:
    """Prepare the calling thread for computing on `device`: torch keeps both settings per thread."""
    import torch  # noqa: PLC0415

    if num_threads is not None:
        torch.get_num_threads()  # a thread's first question adopts the number that any thread set last
        torch.set_num_threads(num_threads)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
