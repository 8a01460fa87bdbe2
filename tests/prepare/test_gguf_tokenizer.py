"""Sentencepiece vocabularies in GGUF: the pieces are those that sentencepiece gives."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers

from handler.engine.weights.gguf import GgufFile
from handler.errors import UnsupportedModelError
from handler.prepare.gguf_tokenizer import write_tokenizer
from tests.tiny_models import byte_tokenizer

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
USER = "<\uff5cUser\uff5c>"
PIECES = ["▁▁", "▁a", "ab", "▁", "a", "b"]


def converted(tmp_path: Path, *, space_prefix: bool | None = None, kind: str = "llama") -> tokenizers.Tokenizer:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(0)
    writer.add_tokenizer_model(kind)
    writer.add_token_list(SPECIAL + BYTES + PIECES)
    writer.add_token_scores([0.0] * 259 + [-float(rank) for rank in range(len(PIECES))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(PIECES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if space_prefix is not None:
        writer.add_add_space_prefix(space_prefix)
    return converted_by(writer, tmp_path)


def converted_by(writer: gguf.GGUFWriter, tmp_path: Path) -> tokenizers.Tokenizer:
    writer.add_tensor("token_embd.weight", np.zeros((1, 1), dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.zeros(1, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_tokenizer(GgufFile(tmp_path / "m.gguf"), tmp_path)
    return tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a b", ["<s>", "▁a", "▁", "b"]),
        (" a", ["<s>", "▁▁", "a"]),
        ("  a", ["<s>", "▁▁", "▁a"]),
        ("abé", ["<s>", "▁a", "b", "<0xC3>", "<0xA9>"]),
    ],
)
def test_a_space_is_put_before_every_text(tmp_path: Path, text: str, pieces: list[str]) -> None:
    tokenizer = converted(tmp_path)
    assert tokenizer.encode(text).tokens == pieces
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(("text", "pieces"), [("ab", ["<s>", "ab"]), (" ab", ["<s>", "▁a", "b"])])
def test_no_space_is_put_where_the_file_says_so(tmp_path: Path, text: str, pieces: list[str]) -> None:
    tokenizer = converted(tmp_path, space_prefix=False)
    assert tokenizer.encode(text).tokens == pieces
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_another_kind_of_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="GGUF tokenizer 'bert'"):
        converted(tmp_path, kind="bert")


def test_tokens_outside_the_byte_alphabet_stay_whole(tmp_path: Path) -> None:
    """DeepSeek's distilled Qwen models have such control tokens; a space is a token of its own in some others."""
    vocab = byte_tokenizer().get_vocab()
    tokens = [*sorted(vocab, key=vocab.__getitem__)[:255], "ab", USER, "  ", "<think>"]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    writer.add_block_count(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("deepseek-r1-qwen")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3, 4, 4])
    writer.add_token_merges(["a b"])
    tokenizer = converted_by(writer, tmp_path)
    assert tokenizer.encode(f"{USER}ab  <think>").ids == [256, 255, 257, 258]
    assert tokenizer.decode([256, 255, 257, 258]) == "ab  <think>"
    assert tokenizer.decode([256, 255, 257, 258], skip_special_tokens=False) == f"{USER}ab  <think>"
    assert tokenizer.get_vocab_size() == 259
