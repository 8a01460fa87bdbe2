from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from handler.engine.config import ModelConfig, parse_config
from handler.engine.cuda import varlen
from handler.engine.cuda.attention import DecodeRows, Prompts, gather_decode, gather_prompts
from handler.engine.cuda.kernel_set import choose_kernels, torch_argmax
from handler.engine.cuda.probe import Probe
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
    assert "varlen attention over block tables is not used: NotImplementedError" in caplog.text
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


def varlen_without_block_tables(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    first_rows: Tensor,
    first_keys: Tensor,
    most_rows: int,
    longest: int,
    *,
    window_size: tuple[int, int],
) -> Tensor:
    """What torch 2.11's `varlen_attn` is documented to do, for the arguments that we give it."""
    rows, ends = first_rows.diff().tolist(), first_keys.diff().tolist()
    assert (most_rows, longest) == (max(rows), max(ends))
    left, right = window_size
    assert right == 0
    parts = []
    for index, (num_rows, end) in enumerate(zip(rows, ends, strict=True)):
        chunk = slice(first_rows[index], first_rows[index + 1])
        context = slice(first_keys[index], first_keys[index + 1])
        one = Prompts(torch.zeros(1, 1, dtype=torch.int32), first_rows, first_keys, [(num_rows, end)])
        window = None if left == -1 else left + 1
        parts.append(gather_prompts(queries[chunk], keys[None, context], values[None, context], one, window))
    return torch.cat(parts).view(queries.shape)


@pytest.mark.usefixtures("no_triton")
def test_varlen_attention_without_block_tables_gets_keys_laid_end_to_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_without_block_tables)
    kernels = choose_kernels(config(), CPU, torch.float32)
    assert (kernels.name, kernels.block_tokens, kernels.decode) == ("gathered varlen", 32, gather_decode)
    assert isinstance(kernels.prompt, varlen.GatheredVarlen)
    assert "varlen attention over block tables is not used: TypeError" in caplog.text


def test_gathered_keys_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_without_block_tables)
    keys, values = torch.randn(2, 20, 32, 2, 16)
    kernel = varlen.GatheredVarlen()
    for seed in range(2):
        torch.manual_seed(seed)
        queries, tables = torch.randn(60, 4, 16), torch.randperm(20, dtype=torch.int32)[:12].view(3, 4)
        spans = [(9, 70), (10, 10), (41, 100)]
        first_rows, ends = torch.tensor([0, 9, 19, 60], dtype=torch.int32), torch.tensor([70, 10, 100])
        prompts = Prompts(tables, first_rows, ends, spans)
        for window in (None, 7):
            expected = gather_prompts(queries, keys, values, prompts, window)
            torch.testing.assert_close(kernel(queries, keys, values, prompts, window), expected)


@pytest.mark.usefixtures("no_triton")
def test_a_kernel_that_errs_is_passed_over(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def one_key_too_many(*arguments: object, window_size: tuple[int, int], **named: object) -> Tensor:
        left = window_size[0] if window_size[0] == -1 else window_size[0] + 1
        return varlen_in_torch(*arguments, window_size=(left, 0), **named)

    monkeypatch.setattr(varlen, "varlen_attn", one_key_too_many)
    assert choose_kernels(config(), CPU, torch.float32).name == "torch"
    assert "varlen attention over block tables is not used: ArithmeticError: it differs from torch by 0." in caplog.text


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(),
    reason="Triton comes with torch's CUDA builds, and interprets where there is no GPU",
)
def test_triton_does_what_it_does_better() -> None:
    kernels = choose_kernels(config(), CPU, torch.float32)
    assert (kernels.name, kernels.block_tokens, kernels.prompt) == ("triton, torch", 32, gather_prompts)
    assert kernels.decode is not gather_decode
    assert type(kernels.elementwise).__name__ == "TritonKernels"


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(),
    reason="Triton comes with torch's CUDA builds, and interprets where there is no GPU",
)
@pytest.mark.parametrize(
    ("kernel", "wrong"),
    [
        ("fused.TritonKernels.silu_mul", lambda _, gate_up: gate_up.chunk(2, dim=-1)[0]),
        ("argmax.argmax", lambda logits: logits.argmin(dim=-1)),
    ],
)
def test_triton_is_passed_over_whichever_of_its_kernels_errs(
    kernel: str, wrong: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(f"handler.engine.cuda.kernels.{kernel}", wrong)
    assert choose_kernels(config(), CPU, torch.float32).name == "torch"
    assert "Triton is not used: ArithmeticError" in caplog.text


def test_a_result_that_is_no_number_is_no_result() -> None:
    probe = Probe(config(), 32, CPU, torch.float32)

    def nowhere(queries: Tensor, keys: Tensor, values: Tensor, rows: DecodeRows, window: int | None) -> Tensor:
        return queries.flatten(1) * float("nan")

    with pytest.raises(ArithmeticError, match="differs from torch by nan"):
        probe.check_decode(nowhere)


class WrongSilu(TorchKernels):
    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return super().silu_mul(gate_up) * 1.1


class WrongPlace(TorchKernels):
    def rotate_and_store(self, heads: Tensor, *arguments: Any) -> Tensor:
        return super().rotate_and_store(heads, *arguments[:-1], arguments[-1] + 1)


@pytest.mark.parametrize("kernels", [WrongSilu(), WrongPlace()])
def test_elementwise_kernels_are_tried_as_well(kernels: TorchKernels) -> None:
    probe = Probe(config(), 32, CPU, torch.float32)
    probe.check_elementwise(TorchKernels())
    with pytest.raises(ArithmeticError, match="differs from torch by"):
        probe.check_elementwise(kernels)


def test_an_argmax_must_find_the_largest() -> None:
    probe = Probe(config(), 32, CPU, torch.float32)
    probe.check_argmax(torch_argmax)
    with pytest.raises(ArithmeticError, match="a larger logit"):
        probe.check_argmax(lambda logits: logits.argmin(dim=-1))
