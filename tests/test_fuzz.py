"""A small part of `make fuzz`, and whether it would notice."""

from __future__ import annotations

import collections
import json
import mmap
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from handler.engine.snapshot import Snapshot
from handler.errors import InvalidRequestError
from tests.fuzz import runner
from tests.fuzz.mutation import mutated_binary, mutated_bytes, mutated_json
from tests.fuzz.runner import Target, run_target

NUM_INPUTS = 12_000
JSON = b'{"a": [1, {"b": "c"}], "d": null}'


def test_bad_inputs_are_refused_and_nothing_more(embedded_snapshot: Snapshot, tmp_path: Path) -> None:
    """In a process of its own, whose memory is then that of the targets."""
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", str(NUM_INPUTS), "--defects", str(tmp_path / "defects")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{NUM_INPUTS:,}"[:2] in run.stdout


def target(run: runner.Callable[[bytes], str]) -> Target:
    return Target(name="x", share=1, seeds=[JSON], mutate=mutated_json, run=run, expected=(InvalidRequestError,))


def defects_of(run: runner.Callable[[bytes], str], num_inputs: int = 40) -> list[str]:
    return list(run_target(target(run), num_inputs, 1).defects)


def test_an_unexpected_error_is_a_defect(tmp_path: Path) -> None:
    def run(data: bytes) -> str:
        if b"null" in data:
            raise InvalidRequestError("/some/path: no 'x' at 17")
        raise KeyError("oh")

    outcome = run_target(target(run), 40, 1, tmp_path)
    assert [defect.partition(" in ")[0] for defect in outcome.defects] == ["DEFECT KeyError"]
    assert (
        outcome.kinds["InvalidRequestError: path: no _ at 0"] == 40 - outcome.kinds.most_common()[-1][1]
        or len(outcome.kinds) == 2
    )
    (kept,) = [path for path in tmp_path.iterdir() if path.suffix != ".txt"]
    with pytest.raises(KeyError):
        run(kept.read_bytes())


def test_a_hang_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "HANG_S", 0.02)

    def run(_: bytes) -> str:
        while True:
            time.sleep(0.001)

    assert defects_of(run, 2)[0].startswith("DEFECT HangError")


def test_growth_is_a_defect() -> None:
    kept: list[mmap.mmap] = []

    def run(_: bytes) -> str:
        kept.append(mmap.mmap(-1, 4 << 20))  # not from what the process has freed before
        kept[-1].write(random.randbytes(4 << 20))
        return "ok"

    assert any(defect.startswith("memory grew") for defect in defects_of(run))


@pytest.mark.parametrize("mutate", [mutated_json, mutated_bytes, lambda rng, seed: mutated_binary(rng, seed, 20)])
def test_the_same_seed_makes_the_same_inputs(mutate: runner.Mutate) -> None:
    first, again = ([mutate(random.Random(seed), JSON) for seed in range(200)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 100


def test_mutated_json_is_of_many_kinds() -> None:
    kinds: collections.Counter[str] = collections.Counter()
    for seed in range(2000):
        try:
            text = mutated_json(random.Random(seed), JSON).decode()
        except UnicodeDecodeError:
            kinds["no UTF-8"] += 1
            continue
        try:
            members = json.loads(text, object_pairs_hook=lambda pairs: pairs)
        except (ValueError, RecursionError):
            kinds["no JSON"] += 1
            continue
        kinds["JSON"] += 1
        kinds["twice"] += isinstance(members, list) and str(members).count("('d'") > 1
        kinds["surrogate"] += "\\ud800" in text
    assert min(kinds[kind] for kind in ("no UTF-8", "no JSON", "JSON", "twice", "surrogate")) > 2, kinds
