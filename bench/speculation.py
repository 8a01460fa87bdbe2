"""What guessing ahead is worth: decode rates with drafts of several lengths, on texts that repeat themselves or do not.

`python -m bench.speculation`. One engine for each draft length in one process, the same prompts for all, by turns in
each round; ratios are taken within a round. Settings come from the environment as for `pilotlight serve`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

import msgspec
import torch

from bench.environment import Environment, look_around
from bench.stats import Summary, summarise
from handler.__main__ import read_environment
from handler.boot import BootTimeline
from handler.cli.serve import engine_options, ensure_snapshot
from handler.engine.core import EngineCore
from handler.engine.loading import load_core
from handler.engine.sampling_params import SamplingParams
from handler.settings import Settings

STORY = (
    "The harbour town of Esk had three lighthouses, of which only one was ever lit. The keeper, a retired clockmaker "
    "named {name}, wound its great lamp every evening at {time}, and wrote the weather into a green ledger: wind from "
    "the {wind}, sea calm, visibility good. On the night of the storm she noticed that the ledger already held an "
    "entry for the following day, in her own hand, describing a ship that had not yet been built."
)
STORIES = [
    STORY.format(name=name, time=time_of_day, wind=wind)
    for name, time_of_day, wind in [("Orla", "six", "north"), ("Maeve", "nine", "west"), ("Sorcha", "dusk", "south")]
]
PROMPTS = {
    "question": [
        "What is the capital of France?",
        "Write a haiku about autumn rain.",
        "Explain gravity to a child in two sentences.",
        "Who wrote 'Pride and Prejudice'?",
        "Why is the sky blue?",
        "Tell me a joke about compilers.",
    ],
    "code": [
        "Write a Python class for a bank account with deposit, withdraw and transfer, and a unit test for each.",
        "Write HTML for a table with ten rows of products and prices.",
        "Write a JSON list of eight people with name, age and city.",
    ],
    "summary": [f"Summarise this text: {story} {story}" for story in STORIES],
    "copy": [f"Repeat the following text word for word: {story}" for story in STORIES],
}
TEMPERATURES = (0.0, 0.8)
BATCHES = (1, 4)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """Decode rate of one kind of text, and its ratio to the rate without drafts."""

    kind: str
    temperature: float
    batch: int
    draft_tokens: int
    tokens_per_s: Summary
    to_no_drafts: Summary


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures, and where they were taken. Shares of drafted tokens that were accepted, by draft length."""

    environment: Environment
    figures: list[Figure]
    acceptance: dict[int, float]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.speculation", description=__doc__)
    parser.add_argument("--drafts", default="2,3,5,7", help="longest drafts, in tokens (2,3,5,7)")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer at most (128)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    lengths = [0, *(int(text) for text in args.drafts.split(","))]
    report = measure(Settings.from_env(read_environment(Path(".env"))), lengths, args.tokens, args.rounds)
    if args.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        return 0
    for figure in report.figures:
        sys.stdout.write(
            f"{figure.kind:9} temperature {figure.temperature}  batch {figure.batch}  drafts {figure.draft_tokens}: "
            f"{figure.tokens_per_s.median:6.0f} tok/s, x{figure.to_no_drafts.median:.2f} "
            f"({figure.to_no_drafts.low:.2f} to {figure.to_no_drafts.high:.2f})\n"
        )
    sys.stdout.write(f"accepted: {report.acceptance}\n")
    return 0


def measure(settings: Settings, lengths: list[int], tokens: int, rounds: int) -> Report:
    """Rates of every kind of text with drafts of each of `lengths`, of which 0 must be one."""
    snapshot = ensure_snapshot(settings)
    threads = torch.get_num_threads()
    cores: dict[int, EngineCore] = {}
    for length in lengths:
        torch.set_num_threads(threads)  # a core takes what there is, and may leave one
        options = msgspec.structs.replace(engine_options(settings), speculation_tokens=length)
        cores[length] = load_core(snapshot, options, BootTimeline())
    figures = []
    for kind, temperature, batch in itertools.product(PROMPTS, TEMPERATURES, BATCHES):
        params = SamplingParams(max_tokens=tokens, temperature=temperature, seed=1)
        rates: dict[int, list[float]] = {length: [] for length in lengths}
        for _, (length, core) in itertools.product(range(rounds), cores.items()):
            rates[length].append(decode_rate(core, PROMPTS[kind], batch, params))
        figures += [
            Figure(
                kind=kind,
                temperature=temperature,
                batch=batch,
                draft_tokens=length,
                tokens_per_s=summarise(rates[length]),
                to_no_drafts=summarise([rate / plain for rate, plain in zip(rates[length], rates[0], strict=True)]),
            )
            for length in lengths
        ]
    return Report(environment=look_around(), figures=figures, acceptance=_acceptance(cores))


def decode_rate(core: EngineCore, texts: list[str], batch: int, params: SamplingParams) -> float:
    """Tokens per second, first tokens excluded, of the answers to `texts`, `batch` at a time."""
    template = core.model.chat_template
    assert template is not None, "the prompts are questions to a chat model"
    num_tokens, seconds = 0, 0.0
    for first in range(0, len(texts), batch):
        for number, text in enumerate(texts[first : first + batch]):
            prompt = template.render([{"role": "user", "content": text}])
            core.add(number, core.model.tokenizer.encode(prompt, add_special_tokens=False), params)
        core.step()
        began_s = time.perf_counter()
        while core.has_work:
            num_tokens += sum(len(event.token_ids) for _, event in core.step())
        seconds += time.perf_counter() - began_s
    return num_tokens / seconds


def _acceptance(cores: dict[int, EngineCore]) -> dict[int, float]:
    stats = {length: core.stats() for length, core in cores.items() if length}
    return {length: each.spec_accepted_tokens / max(1, each.spec_drafted_tokens) for length, each in stats.items()}


if __name__ == "__main__":
    sys.exit(main())
