"""Makes tokenizer files from a GGUF file through transformers, and corrects what that conversion leaves out.

Knows the pre-tokenizers that llama.cpp names and what each means besides its regular expression. One outside
the list is refused: splitting text in another way than in training costs quality without a sound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handler.engine.quiet import first_line, quiet
from handler.engine.weights.gguf import GgufFile
from handler.errors import SnapshotError, UnsupportedModelError
from handler.prepare.documents import read_json, write_json

_LLAMA3 = frozenset({"llama-bpe", "llama3", "llama-v3"})
_TEKKEN = frozenset({"tekken"})
_QWEN2 = frozenset({"qwen2"})
_SMOLLM = frozenset({"smollm"})
_AS_CONVERTED = frozenset({"gpt-2", "deepseek-r1-qwen"})
_PRE_TOKENIZERS = _LLAMA3 | _TEKKEN | _QWEN2 | _SMOLLM | _AS_CONVERTED
_CONTROL = 3  # token_type of a token that stands for itself and is hidden from text
_USER_DEFINED = 4  # and of one that stands for itself and is shown


def write_tokenizer(file: GgufFile, directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, and chat_template.jinja where the file has a template.

    Raises:
        UnsupportedModelError: the kind of tokenizer is outside the list.
        SnapshotError: the converted tokenizer does not give back the file's own special tokens.
    """
    kind = str(file.metadata("tokenizer.ggml.model"))
    pre = str(file.metadata("tokenizer.ggml.pre", "default"))
    if kind not in {"gpt2", "llama"}:
        raise UnsupportedModelError("GGUF tokenizer", kind, ["gpt2", "llama"])
    if kind == "gpt2" and pre not in _PRE_TOKENIZERS:
        raise UnsupportedModelError("GGUF pre-tokenizer", pre, _PRE_TOKENIZERS)
    with quiet("transformers") as transformers:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                file.path.parent, gguf_file=file.path.name, local_files_only=True
            )
            if (kind == "llama" or pre in _LLAMA3 | _TEKKEN) and file.metadata("tokenizer.ggml.add_bos_token", True):
                tokenizer.add_bos_token = True  # llama.cpp's default for these where the file does not say
            tokenizer.save_pretrained(directory)
        except Exception as error:  # tokenizers raises bare exceptions
            raise SnapshotError(f"the tokenizer of {file.path} cannot be converted: {first_line(error)}") from error
    _drop_traces(directory / "tokenizer_config.json")
    path = directory / "tokenizer.json"
    data = read_json(path)
    _restore_added_tokens(data, file)
    _correct(data, kind, pre, space_prefix=bool(file.metadata("tokenizer.ggml.add_space_prefix", kind == "llama")))
    write_json(path, data, indent=None)
    _check(path, file)


def _restore_added_tokens(data: dict[str, Any], file: GgufFile) -> None:
    """Make the file's tokens of their own, and no others, added ones.

    transformers builds on GPT-2's tokenizer, whose own token joins vocabularies without it, past the last row; and
    it respells every token in the byte alphabet, then drops those that are meant as they stand.
    """
    tokens = file.metadata("tokenizer.ggml.tokens")
    kinds = file.metadata("tokenizer.ggml.token_type", [])
    vocab = data["model"]["vocab"]
    spelled = {token_id: token for token, token_id in vocab.items()}
    added = {token["id"]: token for token in data["added_tokens"] if token["id"] < len(tokens)}
    for token_id, (token, kind) in enumerate(zip(tokens, kinds, strict=False)):
        if kind in {_CONTROL, _USER_DEFINED} and token_id not in added:
            del vocab[spelled[token_id]]
            vocab[token] = token_id
            flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            added[token_id] = {"id": token_id, "content": token, **flags, "special": kind == _CONTROL}
    data["added_tokens"] = [added[token_id] for token_id in sorted(added)]


def _correct(data: dict[str, Any], kind: str, pre: str, *, space_prefix: bool) -> None:
    """Change a converted tokenizer.json into what the published one of that family says."""
    if pre in _SMOLLM:
        digits = {"type": "Digits", "individual_digits": True}  # before, not inside, the split into words
        data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, data["pre_tokenizer"]]}
    if pre in _QWEN2:
        data["normalizer"] = {"type": "NFC"}
    if pre in _LLAMA3 | _TEKKEN:
        data["model"]["ignore_merges"] = True
    if kind == "llama":
        _as_sentencepiece(data, space_prefix=space_prefix)


def _as_sentencepiece(data: dict[str, Any], *, space_prefix: bool) -> None:
    """Put a space before every text, as Llama 2's own file does; Metaspace puts none before a space."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = [{"type": "Prepend", "prepend": "\u2581"}] if space_prefix else []
    data["normalizer"] = {"type": "Sequence", "normalizers": [*prepend, replace]}
    data["pre_tokenizer"] = None
    if not space_prefix:
        decoders = data["decoder"]["decoders"]
        data["decoder"]["decoders"] = [decoder for decoder in decoders if decoder["type"] != "Strip"]


def _drop_traces(path: Path) -> None:
    """Remove what transformers notes about where this one was loaded from."""
    config = read_json(path)
    write_json(path, {key: value for key, value in config.items() if key not in {"is_local", "local_files_only"}})


def _check(path: Path, file: GgufFile) -> None:
    from tokenizers import Tokenizer  # noqa: PLC0415  # after the block above, which silences what it imports

    tokenizer = Tokenizer.from_file(str(path))
    tokens = file.metadata("tokenizer.ggml.tokens")
    kinds = file.metadata("tokenizer.ggml.token_type", [])
    for token_id, (token, kind) in enumerate(zip(tokens, kinds, strict=False)):
        if kind in {_CONTROL, _USER_DEFINED} and tokenizer.encode(token, add_special_tokens=False).ids != [token_id]:
            raise SnapshotError(f"{file.path}: the converted tokenizer does not know special token {token!r}")
    if tokenizer.get_vocab_size(with_added_tokens=True) > len(tokens):
        raise SnapshotError(f"{file.path}: the converted tokenizer has more tokens than the file's {len(tokens)}")
