from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from torch import Tensor

from handler.engine.config import ModelConfig, parse_config
from handler.engine.cuda import kernel_set, varlen
from handler.engine.cuda.attention import DecodeRows, Prompts, gather_decode, gather_prompts
from handler.engine.cuda.kernel_set import choose_kernels, torch_argmax
from handler.engine.kernels import TorchKernels

CPU = torch.device("cpu")


def config() -> ModelConfig:
    return parse_config(
        {
            "architectures": ["MistralForCausalLM"],
            "vocab_size": 100,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "sliding_window": 20,
            "max_position_embeddings": 512,
        }
    )


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in [name for name in sys.modules if name.startswith("handler.engine.cuda.kernels.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("no_triton")
def test_where_nothing_else_works_torch_does(caplog: pytest.LogCaptureFixture) -> None:
    kernels = choose_kernels(config(), CPU, torch.float32)
    assert (kernels.name, kernels.block_tokens) == ("torch", 32)
    assert (kernels.decode, kernels.prompt, kernels.argmax) == (gather_decode, gather_prompts, torch_argmax)
    assert isinstance(kernels.elementwise, TorchKernels)
    assert "varlen attention is not used: NotImplementedError" in caplog.text
    assert "Triton is not used: ModuleNotFoundError" in caplog.text


def varlen_in_torch(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    first_rows: Tensor,
    _: None,
    most_rows: int,
    longest: int,
    *,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor,
    num_splits: int,
) -> Tensor:
    """What `varlen_attn` is documented to do, for the arguments that we give it."""
    assert enable_gqa
    assert num_splits == 1
    rows, ends = first_rows.diff().tolist(), seqused_k.tolist()
    assert most_rows == max(rows)
    assert longest >= max(ends)
    left, right = window_size
    assert right == 0
    prompts = Prompts(block_table, first_rows, seqused_k, list(zip(rows, ends, strict=True)))
    return gather_prompts(queries, keys, values, prompts, None if left == -1 else left + 1).view(queries.shape)


@pytest.mark.usefixtures("no_triton")
def test_varlen_attention_is_taken_with_its_page_size_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_in_torch)
    kernels = choose_kernels(config(), CPU, torch.float32)
    assert (kernels.name, kernels.block_tokens) == ("varlen", 256)
    assert (kernels.decode, kernels.prompt) == (varlen.varlen_decode, varlen.varlen_prompts)


@pytest.mark.usefixtures("no_triton")
def test_a_kernel_that_errs_is_passed_over(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def one_key_too_many(*arguments: object, window_size: tuple[int, int], **named: object) -> Tensor:
        left = window_size[0] if window_size[0] == -1 else window_size[0] + 1
        return varlen_in_torch(*arguments, window_size=(left, 0), **named)

    monkeypatch.setattr(varlen, "varlen_attn", one_key_too_many)
    assert choose_kernels(config(), CPU, torch.float32).name == "torch"
    assert "varlen attention is not used: ArithmeticError: it differs from torch by 0." in caplog.text


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(),
    reason="Triton comes with torch's CUDA builds, and interprets where there is no GPU",
)
def test_triton_does_what_it_does_better() -> None:
    kernels = choose_kernels(config(), CPU, torch.float32)
    assert (kernels.name, kernels.block_tokens, kernels.prompt) == ("triton, torch", 32, gather_prompts)
    assert kernels.decode is not gather_decode
    assert type(kernels.elementwise).__name__ == "TritonKernels"


def test_a_result_that_is_no_number_is_no_result() -> None:
    probe = kernel_set._Probe(config(), 32, CPU, torch.float32)

    def nowhere(queries: Tensor, keys: Tensor, values: Tensor, rows: DecodeRows, window: int | None) -> Tensor:
        return queries.flatten(1) * float("nan")

    with pytest.raises(ArithmeticError, match="differs from torch by nan"):
        probe.check_decode(nowhere)
