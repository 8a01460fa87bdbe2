"""GET /v1/models."""

from __future__ import annotations

from typing import Literal

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A served model."""

    id: str
    created: int
    max_model_len: int
    object: Literal["model"] = "model"
    owned_by: str = "pilotlight"


class ModelList(msgspec.Struct, frozen=True):
    """Answer of GET /v1/models."""

    data: list[Model]
    object: Literal["list"] = "list"
