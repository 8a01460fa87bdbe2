"""Translates the rope scaling of a GGUF file into the form of config.json, where that can be done exactly."""

from __future__ import annotations

import math

import numpy as np

from handler.engine.weights.gguf import GgufFile
from handler.errors import UnsupportedModelError
from handler.prepare.gguf_values import integer_of, shortest, value_of

# The only ones published with Llama 3.1 and later; divisors made from others are refused below.
_LLAMA3_LOW, _LLAMA3_HIGH, _LLAMA3_CONTEXT = 1.0, 4.0, 8192


def rope_scaling(file: GgufFile, head_dim: int) -> dict[str, object] | None:
    """What config.json says under `rope_scaling`; None where frequencies are not scaled.

    Raises:
        UnsupportedModelError: the scaling cannot be said exactly.
    """
    divisors = file.rope_frequencies()
    kind = str(value_of(file, "rope.scaling.type", "none"))
    if divisors is not None:
        if kind != "none":
            raise UnsupportedModelError("GGUF rope scaling beside rope_freqs.weight", kind, ["none"])
        return _llama3_scaling(divisors, shortest(value_of(file, "rope.freq_base", 10000.0)), head_dim)
    if kind == "none":
        if (factor := value_of(file, "rope.scaling.factor", 1.0)) != 1.0:
            raise UnsupportedModelError("GGUF rope scaling factor without a type", factor, ["1.0"])
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": shortest(value_of(file, "rope.scaling.factor"))}
    if kind == "yarn" and value_of(file, "rope.scaling.attn_factor", 1.0) == 1.0:
        context = integer_of(file, "rope.scaling.original_context_length")
        factor = shortest(value_of(file, "rope.scaling.factor"))
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": context}
    raise UnsupportedModelError("GGUF rope scaling", kind, ["linear", "none", "yarn without attn_factor"])


def _llama3_scaling(divisors: list[float], theta: float, head_dim: int) -> dict[str, object]:
    """The llama3 parameters from which llama.cpp's converter has computed these divisors."""
    factor = shortest(max(divisors))
    expected: list[float] = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / head_dim)
        smooth = (_LLAMA3_CONTEXT / wavelength - _LLAMA3_LOW) / (_LLAMA3_HIGH - _LLAMA3_LOW)
        expected.append(1 / ((1 - smooth) / factor + smooth) if 0 <= smooth <= 1 else 1.0 if smooth > 1 else factor)
    if len(divisors) != len(expected) or not np.allclose(divisors, expected, rtol=1e-5, atol=0):
        raise UnsupportedModelError("GGUF rope scaling", "rope_freqs.weight", ["the frequencies of Llama 3.1 to 3.3"])
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LLAMA3_LOW,
        "high_freq_factor": _LLAMA3_HIGH,
        "original_max_position_embeddings": _LLAMA3_CONTEXT,
    }
