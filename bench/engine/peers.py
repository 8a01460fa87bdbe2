"""The peers: transformers serve over HTTP, transformers' continuous batching and llama-cpp-python in process.

Each runs under the interpreter that it is installed for, which need not be ours, and reads the same model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

import bench.peers
from bench.children import ServerChild, free_port, run_script
from bench.client import Endpoint
from bench.engine.plan import Plan
from bench.engine.serving import measure_server
from bench.interpreters import offline_environment
from bench.rounds import Measurement
from bench.workload import long_text, story_prompt
from handler.engine.tokenizer import Tokenizer

_SCRIPTS = Path(bench.peers.__file__).parent
_START_S = 300.0
_SCRIPT_S = 900.0


class TransformersServe:
    """`transformers serve --continuous-batching`."""

    name = "transformers"

    def __init__(self, plan: Plan, python: Path, dtype: str, device: str) -> None:
        self._plan = plan
        self._command = [str(python.with_name("transformers")), "serve", plan.snapshot, "--continuous-batching"]
        self._command += ["--dtype", dtype, "--device", device, "--host", "127.0.0.1"]
        if device == "cpu":  # left alone it takes most of the memory that is free, which is everybody's
            self._command += ["--cb-max-memory-percent", "0.1"]
        self._tokenizer = Tokenizer(Path(plan.snapshot))

    def measure(self, round_number: int) -> Measurement:
        """Rates and times over HTTP. It knows no `ignore_eos`: an end token that does not exist does the same."""
        port = free_port()
        extra = {"generation_config": json.dumps({"do_sample": False, "eos_token_id": -1})}
        endpoint = Endpoint(host="127.0.0.1", port=port, model=self._plan.snapshot, extra=extra)
        command = [*self._command, "--port", str(port)]
        with ServerChild(self.name, command, offline_environment(), port=port, ready_path="/health", start_s=_START_S):
            return measure_server(endpoint, self._plan, self._tokenizer, round_number)


class TransformersBatch:
    """transformers' `generate_batch`, without HTTP."""

    name = "transformers-batch"

    def __init__(self, plan: Plan, python: Path, dtype: str, device: str) -> None:
        self._plan = plan
        self._python = python
        self._dtype = dtype
        self._device = device
        self._tokenizer = Tokenizer(Path(plan.snapshot))

    def measure(self, round_number: int) -> Measurement:
        """The decode rate at each batch size, on the prompts that the engine gets."""
        prompts = {
            str(size): [
                self._tokenizer.encode(
                    story_prompt(self._plan.seed, round_number * 10_000 + number), add_special_tokens=False
                )
                for number in range(size)
            ]
            for size in self._plan.clients
        }
        spec = {
            "model": self._plan.snapshot,
            "dtype": self._dtype,
            "device": self._device,
            "tokens": self._plan.tokens,
            "prompts": prompts,
        }
        return _run(self.name, self._python, "transformers_child.py", spec)


class LlamaCpp:
    """llama-cpp-python: one stream, in process."""

    name = "llama-cpp"

    def __init__(self, plan: Plan, python: Path, gguf: Path) -> None:
        self._plan = plan
        self._python = python
        self._gguf = gguf
        self._tokenizer = Tokenizer(Path(plan.snapshot))

    def measure(self, round_number: int) -> Measurement:
        """Decode rate, and the time to the first token of a long prompt."""
        plan = self._plan
        spec = {
            "gguf": str(self._gguf),
            "threads": len(os.sched_getaffinity(0)),
            "context_tokens": plan.prompt_tokens + plan.tokens + 512,
            "tokens": plan.tokens,
            "short_prompts": _texts(plan, round_number, 4),
            "long_prompts": [
                long_text(self._tokenizer, plan.prompt_tokens, plan.seed, f"{round_number}-{number}")
                for number in range(2)
            ],
        }
        return _run(self.name, self._python, "llama_cpp_child.py", spec)


def _texts(plan: Plan, round_number: int, count: int) -> Sequence[str]:
    return [story_prompt(plan.seed, round_number * 10_000 + number) for number in range(count)]


def _run(name: str, python: Path, script: str, spec: object) -> Measurement:
    command = [str(python), str(_SCRIPTS / script)]
    return msgspec.convert(run_script(name, command, spec, offline_environment(), _SCRIPT_S), Measurement)
