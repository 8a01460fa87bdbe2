"""Tiny models as the loader meets them: a configuration and the stored tensors by name."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from torch import Tensor

from handler.engine.config import ModelConfig, parse_config
from tests.tiny_models import make_model


def checkpoint(variant: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """What a checkpoint of the variant holds."""
    model = make_model(variant)
    return parse_config(model.config.to_dict() | {"architectures": [type(model).__name__]}), dict(model.state_dict())


def watched(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Copies of the tensors; asserts that those of layer 0 are let go by the time that layer 1 comes."""
    stored: dict[str, weakref.ref[Tensor]] = {}

    def alive(prefix: str) -> set[str]:
        return {name for name, reference in stored.items() if name.startswith(prefix) and reference() is not None}

    for name, tensor in tensors.items():
        copy = tensor.clone()
        stored[name] = weakref.ref(copy)
        yield name, copy
        del copy
        if "layers.1." in name:
            assert alive("model.layers.0.mlp") == set()
            assert alive("model.layers.0.self_attn") == set()
    assert len(stored) == len(tensors)
