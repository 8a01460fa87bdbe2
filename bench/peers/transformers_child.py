"""transformers' continuous batching in a process of its own: `PYTHON transformers_child.py SPEC ANSWER`.

Runs where nothing of ours is. SPEC: model (directory), dtype, device, tokens, prompts (lists of token ids) by batch
size. The rate counts from the moment when every sequence has its first token to the last token of all, which is how
the engine's own decode rate is taken; `generate_batch` over all of it stands beside it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers


def main() -> None:
    """Measure what the first argument asks for, and write it where the second one says."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    dtype = getattr(torch, spec["dtype"])
    # A directory of this machine: nothing is downloaded.
    model = transformers.AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype)  # nosec B615
    model = model.to(spec["device"]).eval()
    metrics: dict[str, float] = {}
    for size, prompts in spec["prompts"].items():
        run(model, prompts, spec["tokens"])  # warm: compiles and captures what it will
        outputs, total_s = run(model, prompts, spec["tokens"])
        metrics[f"batch_tokens_per_s@{size}"] = len(prompts) * spec["tokens"] / total_s
        times = [output.timestamps for output in outputs]
        if all(times):
            metrics[f"tokens_per_s@{size}"] = decode_rate(times)
    answer = {"metrics": metrics, "details": {"version": transformers.__version__, "torch": torch.__version__}}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def run(model: Any, prompts: list[list[int]], num_tokens: int) -> tuple[list[Any], float]:
    """All prompts at once, greedy, ended by no token; the outputs and the seconds that they took."""
    config = transformers.GenerationConfig(max_new_tokens=num_tokens, do_sample=False, eos_token_id=-1)
    # Left alone it takes most of the memory that is free, which on the CPU is everybody's.
    batching = transformers.ContinuousBatchingConfig(max_memory_percent=0.1 if model.device.type == "cpu" else None)
    began_s = time.perf_counter()
    outputs = list(
        model.generate_batch(
            prompts, generation_config=config, continuous_batching_config=batching, record_timestamps=True
        ).values()
    )
    total_s = time.perf_counter() - began_s
    counts = [len(output.generated_tokens) for output in outputs]
    if counts != [num_tokens] * len(prompts):
        raise SystemExit(f"{len(prompts)} sequences of {num_tokens} tokens were asked for, {counts} came")
    return outputs, total_s


def decode_rate(times: list[list[float]]) -> float:
    """Tokens per second after all sequences have begun. `times` holds each sequence's token times."""
    began_s = max(own[0] for own in times)
    ended_s = max(own[-1] for own in times)
    return sum(time_s > began_s for own in times for time_s in own) / (ended_s - began_s)


if __name__ == "__main__":
    main()
