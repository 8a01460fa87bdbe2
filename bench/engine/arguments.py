"""The command line of `pilotlight bench engine`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.counts import count
from bench.interpreters import PEERS
from bench.options import add_output

PARTS = ("engine", "http")
SHAPE_NAMES = ("llama-8b", "llama-1b", "smollm2-135m", "tiny")
"""The names of `bench.models.SHAPES`, which imports torch."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bench engine`."""
    parser = subparsers.add_parser(
        "engine",
        help="measure the engine alone, behind HTTP, and against its peers",
        description="Measures the engine alone and over HTTP, beside its peers, in interleaved rounds. The engine's "
        "settings (QUANTIZATION, TORCH_DTYPE, MODEL_DEVICE ...) come from the environment as for `serve`.",
    )
    add_output(parser)
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="NAME", help="the model [MODEL_NAME]")
    model.add_argument("--random-model", choices=SHAPE_NAMES, help="random weights in the shape of this model")
    parser.add_argument("--random-dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--parts", type=_names(PARTS), default=PARTS, help="engine,http: which of ours to measure")
    parser.add_argument("--clients", type=_counts, default=(1, 8, 16), help="clients, and batch sizes (1,8,16)")
    parser.add_argument("--tokens", type=count, default=64, help="tokens of each answer (64)")
    parser.add_argument("--requests", type=count, default=2, help="requests of each client, one by one (2)")
    parser.add_argument("--prompt-tokens", type=count, default=1500, help="length of the long prompt (1500)")
    parser.add_argument("--rounds", type=count, default=5, help="how often everybody is measured (5)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and order (0)")
    parser.add_argument("--peer", action="append", choices=PEERS, default=[], help="measure this one too; repeatable")
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="interpreter that has the peers")
    parser.add_argument("--peer-dtype", default="bfloat16", help="of transformers' weights (bfloat16)")
    parser.add_argument("--gguf", type=Path, help="the model's GGUF for llama-cpp, where it is not the embedded model")
    parser.add_argument("--database", choices=("none", "embedded"), default="none", help="of the server (none)")
    parser.add_argument("--profile", action="store_true", help="say where a step's time goes, after the rounds")
    parser.add_argument("--bandwidth-mib", type=count, help="buffer of the memory bandwidth (256; 4096 on CUDA)")


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({count(part) for part in text.split(",")}))


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(part for part in text.split(",") if part)
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"must be some of {', '.join(known)}")
        return names

    return parse
