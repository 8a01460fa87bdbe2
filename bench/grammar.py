"""What following a JSON schema costs: time of a decode step in which every sequence does, over one in which none does.

`python -m bench.grammar`. One engine, the same prompts, with and without the schema by turns in each round; ratios are
taken within a round. Settings come from the environment as for `pilotlight serve`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

import msgspec

from bench.environment import Environment, look_around
from bench.stats import Summary, summarise
from handler.__main__ import read_environment
from handler.boot import BootTimeline
from handler.cli.serve import engine_options, ensure_snapshot
from handler.engine.core import EngineCore
from handler.engine.grammar import Grammar, GrammarSpec
from handler.engine.loading import load_core
from handler.engine.sampling_params import SamplingParams
from handler.settings import Settings

SCHEMA = """{"type": "array", "minItems": 1000, "items": {
  "type": "object", "required": ["name", "age", "kind", "tags", "note"], "additionalProperties": false,
  "properties": {
    "name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["cat", "dog", "bird"]},
    "tags": {"type": "array", "items": {"type": "string"}}, "note": {"type": "string", "maxLength": 100}}}}"""
"""So many items that no completion ends."""
TEMPERATURES = (0.0, 1.0)
BATCHES = (1, 16)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """Median time of a decode step in each round, and how much more of it there is with the schema."""

    batch: int
    temperature: float
    plain_ms: Summary
    schema_ms: Summary
    added_ms: Summary
    ratio: Summary


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures, and where they were taken."""

    environment: Environment
    figures: list[Figure]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.grammar", description=__doc__)
    parser.add_argument("--steps", type=int, default=64, help="decode steps of a measurement (64)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    report = measure(Settings.from_env(read_environment(Path(".env"))), args.steps, args.rounds)
    if args.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        return 0
    for figure in report.figures:
        sys.stdout.write(
            f"batch {figure.batch:2}  temperature {figure.temperature}: {figure.plain_ms.median:6.2f} ms a step, "
            f"{figure.added_ms.median:+.2f} ms with the schema, x{figure.ratio.median:.3f} "
            f"({figure.ratio.low:.3f} to {figure.ratio.high:.3f})\n"
        )
    return 0


def measure(settings: Settings, steps: int, rounds: int) -> Report:
    """Step times at every batch size and temperature."""
    options = msgspec.structs.replace(engine_options(settings), speculation_tokens=0)
    core = load_core(ensure_snapshot(settings), options, BootTimeline())
    schema = core.model.grammars.compile(GrammarSpec("json_schema", SCHEMA), "SCHEMA")
    figures = []
    for batch, temperature in itertools.product(BATCHES, TEMPERATURES):
        plain, followed = [], []
        for round_number in range(-1, rounds):
            pair = {}
            # Who goes first changes, so that neither has the warmer processor.
            for grammar in (None, schema) if round_number % 2 else (schema, None):
                pair[grammar] = step_ms(core, batch, temperature, grammar, steps)
            if round_number >= 0:
                plain.append(pair[None])
                followed.append(pair[schema])
        figures.append(
            Figure(
                batch=batch,
                temperature=temperature,
                plain_ms=summarise(plain),
                schema_ms=summarise(followed),
                added_ms=summarise([b - a for a, b in zip(plain, followed, strict=True)]),
                ratio=summarise([b / a for a, b in zip(plain, followed, strict=True)]),
            )
        )
    return Report(environment=look_around(), figures=figures)


def step_ms(core: EngineCore, batch: int, temperature: float, grammar: Grammar | None, steps: int) -> float:
    """Median time of a step in which `batch` sequences decode."""
    prompt = core.model.tokenizer.encode("A JSON list of pets and what is known of them:\n", add_special_tokens=False)
    for number in range(batch):
        params = SamplingParams(
            max_tokens=steps + 2, temperature=temperature, seed=number, grammar=grammar, ignore_eos=grammar is None
        )
        core.add(number, [*prompt, *core.model.tokenizer.encode(str(number), add_special_tokens=False)], params)
    times_ms = []
    while core.has_work:
        began_s = time.perf_counter()
        events = core.step()
        if len(events) == batch:
            times_ms.append((time.perf_counter() - began_s) * 1e3)
    return statistics.median(times_ms[1:-1])  # not the prompts, nor what ends the sequences


if __name__ == "__main__":
    sys.exit(main())
