"""POST /invocations in Vertex AI's form: several requests in one body."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

MAX_INSTANCES = 128


class PredictRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests of the shapes that /invocations takes alone, and fields for all that do not have them themselves."""

    instances: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MAX_INSTANCES)]
    parameters: dict[str, Any] | None = None


class Predictions(msgspec.Struct, frozen=True):
    """The instances' answers in their order; one that failed has an error body in its place."""

    predictions: list[msgspec.Raw]
