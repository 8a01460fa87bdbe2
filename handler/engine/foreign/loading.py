"""Fills a model of transformers with the tensors of a snapshot, and looks whether each row is computed by itself.

transformers converts names and layouts, fuses experts and ties weights; nothing may be missing and nothing left over.
On the CPU a tensor that is stored in the wanted dtype stays mapped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from handler.engine.foreign.interface import PAGED, attach
from handler.engine.foreign.refusal import Unsuitable
from handler.engine.foreign.split import SplitModel
from handler.engine.precision import Precision
from handler.errors import CorruptSnapshotError

_NUM_ROWS = 8
_TOLERANCE = 0.1
"""Of the difference's norm, relative. Another order of the rows rounds differently, at most; a layer that looks at its
neighbours gives something else altogether."""


def load_model(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    tensors: Iterable[tuple[str, Tensor]],
    precision: Precision,
) -> PreTrainedModel:
    """The model in evaluation mode, on its device.

    Raises:
        CorruptSnapshotError: a tensor is missing, unknown or of the wrong shape.
    """
    logging.disable_progress_bar()
    try:
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=precision.dtype,
            attn_implementation=PAGED,
            local_files_only=True,
            output_loading_info=True,
        )
    except (RuntimeError, ValueError) as error:  # what transformers raises for shapes and failed conversions
        raise CorruptSnapshotError(f"the weights do not fit {model_class.__name__}: {error}") from error
    faults = {
        "are missing": report["missing_keys"],
        f"do not belong to {model_class.__name__}": report["unexpected_keys"],
        "have the wrong shape": report["mismatched_keys"],
        "cannot be read": report["error_msgs"],
    }
    for fault, names in faults.items():
        if names:
            raise CorruptSnapshotError(f"{len(names)} tensors {fault}, the first is {min(map(str, names))}")
    return model.to(precision.device)


def check_rows_are_independent(
    model: SplitModel, attentions: Iterable[nn.Module], vocab_size: int, device: torch.device
) -> None:
    """Compute a few tokens in two orders, with attention that does not look beyond a row.

    Raises:
        Unsuitable: the order matters, so tokens meet elsewhere than in attention (a convolution, a recurrence).
    """
    for module in attentions:
        attach(module, _attend_to_oneself)
    tokens = torch.arange(_NUM_ROWS, device=device) * 7 % vocab_size
    positions = torch.arange(_NUM_ROWS, device=device)
    order = torch.tensor([5, 0, 3, 7, 1, 6, 2, 4], device=device)
    straight = model.hidden(tokens, positions)[order].float().nan_to_num()
    shuffled = model.hidden(tokens[order], positions[order]).float().nan_to_num()
    if (straight - shuffled).norm() > _TOLERANCE * straight.norm():
        raise Unsuitable("its tokens meet elsewhere than in attention, and the cache does not hold that state")


def _attend_to_oneself(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, arguments: dict[str, Any]
) -> Tensor:
    del keys, mask, arguments
    return values.repeat_interleave(queries.shape[1] // values.shape[1], dim=1).transpose(1, 2).contiguous()
