from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from handler.engine.generation_config import GenerationDefaults, read_generation_defaults
from handler.errors import CorruptSnapshotError


def read(directory: Path, raw: object) -> GenerationDefaults:
    (directory / "generation_config.json").write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return read_generation_defaults(directory)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, {}),
        ({"eos_token_id": None}, {}),
        ({"eos_token_id": 2}, {"end_token_ids": (2,)}),
        ({"eos_token_id": 0}, {"end_token_ids": (0,)}),
        ({"eos_token_id": [128001, 128008, 128009]}, {"end_token_ids": (128001, 128008, 128009)}),
        (
            {
                "temperature": 0.6,
                "top_p": 0.9,
                "top_k": 20,
                "min_p": 0.1,
                "repetition_penalty": 1.05,
                "do_sample": True,
            },
            {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05},
        ),
        ({"temperature": 1, "top_k": None}, {"temperature": 1.0}),
        ({"temperature": 0.6, "do_sample": False}, {}),
        ({"bos_token_id": 1, "max_new_tokens": 9, "transformers_version": "5"}, {}),
    ],
)
def test_what_the_file_says_is_taken(raw: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, raw) == GenerationDefaults(**expected)


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    transformers.GenerationConfig(eos_token_id=[7, 8], do_sample=True, temperature=0.7, top_k=11).save_pretrained(
        tmp_path
    )
    assert read_generation_defaults(tmp_path) == GenerationDefaults(end_token_ids=(7, 8), temperature=0.7, top_k=11)


@pytest.mark.parametrize("raw", ["", "[]", {"eos_token_id": "</s>"}, {"temperature": "hot"}, {"top_k": 1.5}])
def test_a_file_that_cannot_be_believed_is_named(raw: object, tmp_path: Path) -> None:
    with pytest.raises(CorruptSnapshotError, match=r"generation_config\.json"):
        read(tmp_path, raw)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptSnapshotError, match=r"generation_config\.json"):
        read_generation_defaults(tmp_path)
