"""llama-cpp-python in a process of its own: `PYTHON llama_cpp_child.py SPEC ANSWER`. Runs where nothing of ours is.

SPEC: gguf (path), threads, context_tokens, tokens, short_prompts and long_prompts (texts). The rate is that of
`Llama.generate`, the library's own loop: sampling counts, decoding text does not.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp


def main() -> None:
    """Measure what the first argument asks for, and write it where the second one says."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    llama = llama_cpp.Llama(
        spec["gguf"],
        n_ctx=spec["context_tokens"],
        n_threads=spec["threads"],
        n_threads_batch=spec["threads"],
        verbose=False,
    )
    timed(llama, spec["short_prompts"][0], 8)  # warm
    decodes = [timed(llama, prompt, spec["tokens"]) for prompt in spec["short_prompts"][1:]]
    firsts = [timed(llama, prompt, 1) for prompt in spec["long_prompts"]]
    gaps = [gap for times in decodes for gap in gaps_of(times)]
    answer = {
        "metrics": {
            "decode_tokens_per_s": len(gaps) / sum(gaps),
            "ttft_p50_ms@1": sorted(times[0] for times in decodes)[len(decodes) // 2] * 1e3,
            "long_ttft_ms": sorted(times[0] for times in firsts)[len(firsts) // 2] * 1e3,
        },
        "details": {
            "version": llama_cpp.__version__,
            "token_s": decodes,
            "long_ttft_s": [times[0] for times in firsts],
            "long_prompt_tokens": [len(tokenize(llama, prompt)) for prompt in spec["long_prompts"]],
        },
    }
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def timed(llama: Any, prompt: str, num_tokens: int) -> list[float]:
    """Seconds from the call to each of `num_tokens` greedy tokens, end tokens and all, on an empty cache."""
    tokens = tokenize(llama, prompt)
    llama.reset()
    times = []
    began_s = time.perf_counter()
    for _ in llama.generate(tokens, temp=0.0):
        times.append(time.perf_counter() - began_s)
        if len(times) == num_tokens:
            break
    return times


def tokenize(llama: Any, prompt: str) -> list[int]:
    """Token ids of a text."""
    return list(llama.tokenize(prompt.encode()))


def gaps_of(times: Sequence[float]) -> list[float]:
    """Between one token and the next."""
    return [after - before for before, after in itertools.pairwise(times)]


if __name__ == "__main__":
    main()
