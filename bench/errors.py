"""What the harness raises on purpose. Not part of the function's own tree, which knows no harness."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement that could not be made, or would not be what it claims to be. `str(error)` is fit for a user."""
