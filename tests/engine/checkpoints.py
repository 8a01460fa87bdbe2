"""Tiny models as the loader meets them: a configuration and the stored tensors by name."""

from __future__ import annotations

from torch import Tensor

from handler.engine.config import ModelConfig, parse_config
from tests.tiny_models import make_model


def checkpoint(variant: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """What a checkpoint of the variant holds."""
    model = make_model(variant)
    return parse_config(model.config.to_dict() | {"architectures": [type(model).__name__]}), dict(model.state_dict())
