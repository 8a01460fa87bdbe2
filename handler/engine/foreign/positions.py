"""How far a model's positions reach, and rotary embeddings that would change with the longest sequence of a step.

Beyond the length that a model was trained with, the types `dynamic` and `longrope` compute other frequencies for all
rows of a step: what is in the cache would be wrong then. So such a model serves that length, and its frequencies are
held.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig

from handler.engine.foreign.refusal import Unsuitable

_CHANGING_TYPES = frozenset({"dynamic", "longrope"})


def context_tokens(config: PreTrainedConfig) -> int:
    """Longest sequence.

    Raises:
        Unsuitable: the configuration does not say.
    """
    tokens = getattr(config, "max_position_embeddings", None)
    if not isinstance(tokens, int):
        raise Unsuitable("its configuration has no max_position_embeddings")
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *rope.values()]:  # one for all layers, or one for each kind of layer
        if isinstance(parameters, dict) and parameters.get("rope_type") in _CHANGING_TYPES:
            tokens = min(tokens, parameters.get("original_max_position_embeddings") or tokens)
    return tokens


def hold_frequencies(model: nn.Module) -> None:
    """Let rotary embeddings keep the frequencies that they were made with, which are those of short sequences.

    transformers' `dynamic_rope_update` would look at the longest position in every step, which on CUDA waits for the
    device.
    """
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, dict):
            module.rope_type = {layers: _held(each) for layers, each in kind.items()}  # type: ignore[assignment]
        elif isinstance(kind, str):
            module.rope_type = _held(kind)  # type: ignore[assignment]


def _held(kind: str) -> str:
    return "default" if kind in _CHANGING_TYPES else kind
