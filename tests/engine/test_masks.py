"""What is masked, by the kernel and by torch, against the bits that llguidance gives away one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from handler.engine.follower import Follower
from handler.engine.grammar import GrammarCompiler, GrammarSpec
from handler.engine.masks import Masks
from handler.engine.tokenizer import Tokenizer
from tests.tiny_models import END_TOKEN, VOCAB_SIZE, byte_tokenizer


@pytest.mark.parametrize("vocab_size", [VOCAB_SIZE, 320])
@pytest.mark.parametrize("has_kernel", [True, False])
def test_only_what_may_come_next_is_left(vocab_size: int, has_kernel: bool, tmp_path: Path) -> None:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    compiler = GrammarCompiler(Tokenizer(tmp_path), tmp_path / "tokenizer.json", (END_TOKEN,), vocab_size)
    masks = Masks(vocab_size, torch.device("cpu"))
    if not has_kernel:
        masks._mask_rows = None
    elif masks._mask_rows is None:
        pytest.skip("this machine has no kernels")
    expected = {0: set(b"xyz"), 2: {END_TOKEN}, 4: set(range(128)) - set(b"a\n"), 5: {*range(ord("0"), ord("9") + 1)}}
    specs = {0: ("[xyz]", ""), 2: ("b", "b"), 4: (r"[\x00-\x7f--[a\n]]", ""), 5: ("[0-9]{2}", "4")}
    followers = {}
    for row, (regex, begin) in specs.items():
        follower = Follower(compiler.compile(GrammarSpec("regex", regex), "field"), num_prompt_tokens=2)
        follower.catch_up([7, 7, *begin.encode()], [])
        followers[row] = follower
    logits = torch.randn(6, vocab_size)
    before = logits.clone()
    masks.apply(logits, followers)
    for row in range(6):
        left = expected.get(row, set(range(vocab_size)))
        for token in range(vocab_size):
            assert logits[row, token] == (before[row, token] if token in left else float("-inf")), (row, token)


def test_a_follower_takes_in_each_token_once(tmp_path: Path) -> None:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    compiler = GrammarCompiler(Tokenizer(tmp_path), tmp_path / "tokenizer.json", (END_TOKEN,), VOCAB_SIZE)
    follower = Follower(compiler.compile(GrammarSpec("regex", "abcdef"), "field"), num_prompt_tokens=1)
    tokens = list(b"?a")
    follower.catch_up(tokens, [])
    follower.catch_up(tokens, list(b"b"))  # the tokens of one step, as they are accepted
    follower.catch_up(tokens, list(b"bc"))
    tokens += b"bc"
    follower.catch_up(tokens, [])
    assert follower.allows(ord("d"))
    assert not follower.allows(ord("c"))
    assert follower.forced_tokens() == list(b"def")
    follower.catch_up(tokens, list(b"x"))
    assert follower.error
