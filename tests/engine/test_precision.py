from __future__ import annotations

import pytest
import torch

from handler.engine import precision
from handler.engine.options import EngineOptions
from handler.engine.precision import resolve_precision


@pytest.fixture(params=[True, False], ids=["without-vnni", "with-vnni"])
def sums_saturate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(precision, "int8_sums_saturate", lambda: request.param)
    return bool(request.param)


def test_with_its_kernels_a_cpu_computes_in_int8(sums_saturate: bool) -> None:
    assert resolve_precision(EngineOptions(device="cpu"), has_kernels=True).quantization == "int8"


def test_without_them_it_does_so_only_where_torch_is_fast_at_it(sums_saturate: bool) -> None:
    found = resolve_precision(EngineOptions(device="cpu"), has_kernels=False)
    assert found.quantization == ("none" if sums_saturate else "int8")
    assert found.dtype == torch.float32


@pytest.mark.parametrize("has_kernels", [True, False])
def test_what_is_asked_for_is_done(sums_saturate: bool, has_kernels: bool) -> None:
    for options, expected in (
        (EngineOptions(device="cpu", quantization="int8"), "int8"),
        (EngineOptions(device="cpu", quantization="none"), "none"),
        (EngineOptions(device="cpu", dtype="float32"), "none"),
    ):
        assert resolve_precision(options, has_kernels=has_kernels).quantization == expected


def test_a_model_without_an_int8_form_stays_as_it_is(sums_saturate: bool) -> None:
    options = EngineOptions(device="cpu")
    assert resolve_precision(options, can_quantise=False, has_kernels=False).quantization == "none"


@pytest.mark.parametrize("are_there", [True, False])
def test_who_knows_no_model_is_told_of_this_machine(
    sums_saturate: bool, are_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "load_kernels", lambda: object() if are_there else None)
    found = resolve_precision(EngineOptions(device="cpu")).quantization
    assert found == ("int8" if are_there or not sums_saturate else "none")
