"""How fast weights get to the device: `python -m bench.weight_copy --random-model SHAPE --out FILE`.

In turns: through the staging that the engine loads with, by torch's own copy of mapped memory, and, as the most that
the machine can do, from memory that is pinned already. Page cache warm. MODEL_DEVICE=cpu tries the logic without a GPU.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from bench.counts import count
from bench.environment import Environment, look_around
from bench.models import SHAPES, random_model
from handler.engine.staging import Staging
from handler.engine.weights.safetensors import iter_tensors
from handler.settings import Settings

_PINNED_BYTES = 256 << 20


class Copying(msgspec.Struct, frozen=True, kw_only=True):
    """What came out.

    Attributes:
        environment: of the machine.
        shape: of the model.
        num_bytes: of its weights.
        bytes_per_s: by way, round by round.
        staged_to_pinned: the medians' ratio; 1 is the most that the machine can do.
    """

    environment: Environment
    shape: str
    num_bytes: int
    bytes_per_s: dict[str, list[float]]
    staged_to_pinned: float


def measure(directory: Path, device: torch.device, rounds: int) -> tuple[int, dict[str, list[float]]]:
    """Bytes of the weights, and bytes/s by way and round; a first round warms up and does not count."""
    num_bytes = sum(tensor.nbytes for _, tensor in iter_tensors(directory))
    ways = _ways(directory, device, num_bytes)
    found: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)  # noqa: S311  (an order)
    for number in range(rounds + 1):
        for name in order.sample(list(ways), len(ways)):
            began_s = time.perf_counter()
            ways[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                found[name].append(num_bytes / (time.perf_counter() - began_s))
    return num_bytes, found


def _ways(directory: Path, device: torch.device, num_bytes: int) -> dict[str, Callable[[], None]]:
    size = min(_PINNED_BYTES, num_bytes)
    source = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty(size, dtype=torch.uint8, device=device)

    def staged() -> None:
        staging = Staging(device)
        for _, tensor in iter_tensors(directory):
            staging.move(tensor)

    def plain() -> None:
        for _, tensor in iter_tensors(directory):
            tensor.to(device, copy=True)

    def pinned() -> None:
        for begin in range(0, num_bytes, size):
            part = min(size, num_bytes - begin)
            target[:part].copy_(source[:part], non_blocking=True)

    return {"staged": staged, "plain": plain, "pinned": pinned}


def main() -> int:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench.weight_copy", description="Measure how weights are loaded.")
    parser.add_argument("--random-model", choices=SHAPES, default="llama-8b", help="shape of the model (llama-8b)")
    parser.add_argument("--rounds", type=count, default=5, help="how often (5)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the JSON file to write")
    args = parser.parse_args()
    settings = Settings.from_env(os.environ)
    name = settings.model_device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    snapshot = random_model(args.random_model, "bfloat16", settings.pilotlight_home)
    num_bytes, found = measure(snapshot.directory, device, args.rounds)
    medians = {way: statistics.median(rates) for way, rates in found.items()}
    copying = Copying(
        environment=look_around(),
        shape=args.random_model,
        num_bytes=num_bytes,
        bytes_per_s=found,
        staged_to_pinned=medians["staged"] / medians["pinned"],
    )
    args.out.write_bytes(msgspec.json.format(msgspec.json.encode(copying)) + b"\n")
    for way, rate in medians.items():
        sys.stdout.write(f"{way}: {rate / 1e9:.2f} GB/s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
