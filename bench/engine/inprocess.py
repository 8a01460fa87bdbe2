"""The engine in a process of its own, without HTTP: `python -m bench.engine.inprocess SPEC ANSWER`.

A fresh process, so that its memory is the engine's. Settings come from the environment, as those of `pilotlight serve`.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch

from bench.engine.bandwidth import measure_bandwidth
from bench.engine.driver import first_token, running
from bench.engine.memory import kv_bytes, process_memory, weight_bytes
from bench.engine.plan import InProcessSpec
from bench.engine.profile import profile_steps
from bench.rounds import Measurement
from bench.workload import long_tokens, story_prompt
from handler.__main__ import read_environment
from handler.boot import BootTimeline
from handler.cli.serve import engine_options
from handler.engine.config import ModelConfig, read_config
from handler.engine.core import EngineCore
from handler.engine.loading import load_core
from handler.engine.snapshot import open_snapshot
from handler.settings import Settings

_STALL_STREAMS = 4
_QUIET_STEPS = 16


def main() -> None:
    """Measure what the first argument asks for, and write it where the second one says."""
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=InProcessSpec)
    settings = Settings.from_env(read_environment(Path(".env")))
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(measure(spec, settings)))


def measure(spec: InProcessSpec, settings: Settings) -> Measurement:
    """Load the model and take the figures."""
    snapshot = open_snapshot(Path(spec.plan.snapshot))
    before = process_memory(os.getpid())
    timeline = BootTimeline()
    core = load_core(snapshot, engine_options(settings), timeline)
    after = process_memory(os.getpid())
    run = _Run(spec, core, read_config(snapshot.directory))
    if spec.with_profile:
        return Measurement(metrics={}, details={"profile": run.profiles()})
    return Measurement(
        metrics={
            **run.memory(before, after),
            **run.prompts(),
            **run.stall(),
            **run.decoding(),
            **run.roofline(torch.device(core.model.info.device), spec.bandwidth_bytes),
        },
        details={
            **run.details,
            "model": msgspec.to_builtins(core.model.info),
            "torch_threads": torch.get_num_threads(),
            "load_s": {phase.name: (phase.end_s or phase.start_s) - phase.start_s for phase in timeline.phases},
        },
    )


class _Run:
    """One round on one loaded core."""

    def __init__(self, spec: InProcessSpec, core: EngineCore, config: ModelConfig) -> None:
        self._plan = spec.plan
        self._round = spec.round_number
        self._core = core
        self._config = config
        self._decode_step_s: dict[int, float] = {}
        self.details: dict[str, Any] = {}

    def memory(self, before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
        """Resident memory around the load, beside what weights and KV plan ask for."""
        info = self._core.model.info
        return {
            "rss_before_load_bytes": before["rss_bytes"],
            **{f"{name.removesuffix('_bytes')}_after_load_bytes": value for name, value in after.items()},
            "weight_bytes": weight_bytes(self._config, info),
            "kv_plan_bytes": kv_bytes(self._config, info, info.kv_cache_tokens),
        }

    def prompts(self) -> dict[str, float]:
        """A long prompt alone, and the same once more."""
        first_token(self._core, self._long_prompt("warm"))
        prompt = self._long_prompt("first")
        first, again = first_token(self._core, prompt), first_token(self._core, prompt)
        self.details |= {"prefill_step_s": first.step_s, "cached_tokens": again.cached_tokens}
        return {
            "long_ttft_ms": first.ttft_s * 1e3,
            "prefill_tokens_per_s": first.prompt_tokens / first.ttft_s,
            "chunk_max_ms": max(first.step_s) * 1e3,
            "repeated_ttft_ms": again.ttft_s * 1e3,
        }

    def stall(self) -> dict[str, float]:
        """The largest gap between tokens of running streams while a long prompt comes in."""
        with running(self._core, self._short_prompts(_STALL_STREAMS)) as batch:
            quiet = batch.gaps(_QUIET_STEPS)
            busy = batch.gaps_beside(self._long_prompt("beside"))
        self.details |= {"quiet_gaps_s": quiet, "stall_gaps_s": busy}
        return {"quiet_gap_ms": statistics.median(quiet) * 1e3, "stall_gap_max_ms": max(busy) * 1e3}

    def decoding(self) -> dict[str, float]:
        """Tokens per second of a full batch at each size."""
        metrics: dict[str, float] = {}
        for size in self._plan.clients:
            with running(self._core, self._short_prompts(size)) as batch:
                batch.decode(self._plan.tokens)  # warm: graphs of this size are captured after some uses
                sample = batch.decode(self._plan.tokens)
            self._decode_step_s[size] = statistics.median(sample.step_s)
            self.details[f"step_s@{size}"] = sample.step_s
            metrics[f"tokens_per_s@{size}"] = sample.tokens_per_s
            metrics[f"step_p50_ms@{size}"] = self._decode_step_s[size] * 1e3
        return metrics

    def roofline(self, device: torch.device, num_bytes: int) -> dict[str, float]:
        """Memory bandwidth now, and the share of it that decode steps turned into tokens."""
        bandwidth = measure_bandwidth(device, num_bytes)
        self.details["bandwidth"] = msgspec.to_builtins(bandwidth)
        info = self._core.model.info
        metrics = {
            "read_bytes_per_s": max(bandwidth.read_bytes_per_s),
            "copy_bytes_per_s": max(bandwidth.copy_bytes_per_s),
        }
        for size, step_s in self._decode_step_s.items():
            context = size * (len(self._short_prompts(1)[0]) + self._plan.tokens * 3 // 2)  # after as many warm ones
            step_bytes = weight_bytes(self._config, info) + kv_bytes(self._config, info, context)
            metrics[f"step_bytes@{size}"] = step_bytes
            metrics[f"roofline_share@{size}"] = step_bytes / step_s / bandwidth.best_bytes_per_s
            metrics[f"copy_share@{size}"] = step_bytes / step_s / metrics["copy_bytes_per_s"]
        return metrics

    def profiles(self) -> dict[str, Any]:
        """Where a step's time goes, at the smallest and the largest batch."""
        found = {}
        for size in sorted({self._plan.clients[0], self._plan.clients[-1]}):
            with running(self._core, self._short_prompts(size)) as batch:
                batch.decode(self._plan.tokens)
                found[str(size)] = profile_steps(batch, self._plan.tokens)
        return found

    def _short_prompts(self, count: int) -> list[list[int]]:
        texts = (story_prompt(self._plan.seed, self._round * 10_000 + number) for number in range(count))
        return [self._core.model.tokenizer.encode(text, add_special_tokens=False) for text in texts]

    def _long_prompt(self, purpose: str) -> list[int]:
        name = f"{self._round}-{purpose}"
        return long_tokens(self._core.model.tokenizer, self._plan.prompt_tokens, self._plan.seed, name)


if __name__ == "__main__":
    main()
