from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handler.engine.foreign import architecture as module
from handler.engine.foreign.architecture import ForeignArchitecture
from handler.engine.foreign.decoder import ForeignDecoder
from handler.engine.foreign.loading import load_model
from handler.engine.precision import Precision
from handler.errors import ConfigurationError, CorruptSnapshotError, SnapshotError
from tests.tiny_models import make_model

CPU = Precision(torch.device("cpu"), torch.float32, "none")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[ForeignArchitecture, dict[str, Tensor]]:
    """An OLMo, looked at, and its tensors by name."""
    model = make_model("olmo2")
    model.save_pretrained(tmp_path)
    return ForeignArchitecture(tmp_path), dict(model.state_dict())


def load(architecture: ForeignArchitecture, tensors: dict[str, Tensor]) -> ForeignDecoder:
    with torch.inference_mode():
        return architecture.load(tensors.items(), CPU, 64)


def test_any_missing_tensor_is_named(saved: tuple[ForeignArchitecture, dict[str, Tensor]]) -> None:
    architecture, tensors = saved
    for name in tensors:
        with pytest.raises(CorruptSnapshotError, match=f"1 tensors are missing, the first is {name}"):
            load(architecture, {other: tensor for other, tensor in tensors.items() if other != name})


def test_a_tensor_that_has_no_place_is_named(saved: tuple[ForeignArchitecture, dict[str, Tensor]]) -> None:
    architecture, tensors = saved
    name = "model.layers.3.mlp.up_proj.weight"
    with pytest.raises(CorruptSnapshotError, match=f"1 tensors do not belong to Olmo2ForCausalLM, the first is {name}"):
        load(architecture, tensors | {name: torch.zeros(96, 64)})


def test_a_tensor_of_the_wrong_shape_is_refused(saved: tuple[ForeignArchitecture, dict[str, Tensor]]) -> None:
    architecture, tensors = saved
    with pytest.raises(CorruptSnapshotError, match="weights do not fit Olmo2ForCausalLM"):
        load(architecture, tensors | {"model.norm.weight": torch.zeros(65)})


def test_stored_tensors_are_not_copied(saved: tuple[ForeignArchitecture, dict[str, Tensor]]) -> None:
    """Mapped from a file they are read when touched, and take no memory that counts."""
    architecture, tensors = saved
    decoder = load(architecture, tensors)
    held = {parameter.data_ptr() for parameter in decoder._model._body.parameters()}
    assert {tensor.data_ptr() for name, tensor in tensors.items() if name != "lm_head.weight"} == held


def test_weights_have_the_dtype_that_was_asked_for(saved: tuple[ForeignArchitecture, dict[str, Tensor]]) -> None:
    architecture, tensors = saved
    decoder = architecture.load(tensors.items(), Precision(torch.device("cpu"), torch.bfloat16, "none"), 64)
    assert {parameter.dtype for parameter in decoder._model._body.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in decoder._model._head.parameters()} == {torch.bfloat16}


def test_no_step_looks_for_its_longest_position(tmp_path: Path) -> None:
    """On CUDA that would wait for the device."""
    model = make_model("phi-dynamic-rope")
    model.save_pretrained(tmp_path)
    decoder = load(ForeignArchitecture(tmp_path), dict(model.state_dict()))
    assert model.model.rotary_emb.rope_type == "dynamic"
    assert decoder._model._body.rotary_emb.rope_type == "default"


def test_one_engine_loads_at_a_time(
    saved: tuple[ForeignArchitecture, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def observed(*arguments: Any) -> Any:
        held.append(module._ALONE.locked())
        return load_model(*arguments)

    monkeypatch.setattr(module, "load_model", observed)
    load(*saved)
    assert held == [True]
    assert not module._ALONE.locked()


def test_quantisation_is_refused_by_name(saved: tuple[ForeignArchitecture, dict[str, Tensor]]) -> None:
    architecture, tensors = saved
    with pytest.raises(ConfigurationError, match="int8 is not for Olmo2ForCausalLM") as caught:
        architecture.load(tensors.items(), Precision(torch.device("cpu"), torch.float32, "int8"), 64)
    assert caught.value.key == "QUANTIZATION"


def test_a_layer_where_tokens_meet_is_refused(
    saved: tuple[ForeignArchitecture, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a model with a convolution over neighbouring tokens, which no look at its attention shows."""
    from transformers.models.olmo2 import modeling_olmo2  # noqa: PLC0415

    forward = modeling_olmo2.Olmo2MLP.forward

    def shifted(self: nn.Module, x: Tensor) -> Any:
        return forward(self, x + x.roll(1, dims=1))

    monkeypatch.setattr(modeling_olmo2.Olmo2MLP, "forward", shifted)
    architecture, tensors = saved
    with pytest.raises(SnapshotError, match="Olmo2ForCausalLM cannot be served: its tokens meet elsewhere than in att"):
        load(architecture, tensors)
