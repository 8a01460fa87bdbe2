"""What the engine benchmark compares with what. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.comparison import Comparison


def comparisons(clients: Sequence[int]) -> list[Comparison]:
    """All that this benchmark compares; those whose contenders did not run stay empty."""
    found = [
        Comparison(
            "time to first token of a long prompt, to llama-cpp-python's",
            ("pilotlight", "long_ttft_ms"),
            ("llama-cpp", "long_ttft_ms"),
        ),
        Comparison(
            "time to first token of the same prompt again, to its own first",
            ("pilotlight", "repeated_ttft_ms"),
            ("pilotlight", "long_ttft_ms"),
        ),
        Comparison(
            "largest gap of running streams beside a long prompt, to the time of one chunk",
            ("engine", "stall_gap_max_ms"),
            ("engine", "chunk_max_ms"),
        ),
    ]
    for count in clients:
        rate = f"tokens_per_s@{count}"
        found += [
            Comparison(f"{count} clients, to transformers serve", ("pilotlight", rate), ("transformers", rate)),
            Comparison(
                f"{count} clients, to llama-cpp-python's single stream",
                ("pilotlight", rate),
                ("llama-cpp", "decode_tokens_per_s"),
            ),
            Comparison(f"{count} clients over HTTP, to the engine alone", ("pilotlight", rate), ("engine", rate)),
            Comparison(
                f"batch of {count}, to transformers' continuous batching",
                ("engine", rate),
                ("transformers-batch", rate),
            ),
        ]
    return found
