"""Why a model of transformers cannot run on our cache."""

from __future__ import annotations


class Unsuitable(Exception):  # noqa: N818  (it says what the model is, and never leaves the package)
    """The model asks for something that would be computed wrongly here. `str` is the reason; `it` is the model."""
