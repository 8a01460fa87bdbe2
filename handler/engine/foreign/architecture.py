"""A model directory as transformers sees it: its class, and whether that runs on our cache. Reads no weights."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from handler.engine.config import ModelShape, read_architecture
from handler.engine.foreign.decoder import ForeignDecoder
from handler.engine.foreign.interface import REHEARSED, register
from handler.engine.foreign.loading import check_rows_are_independent, load_model
from handler.engine.foreign.positions import context_tokens, hold_frequencies
from handler.engine.foreign.refusal import Unsuitable
from handler.engine.foreign.rehearsal import Rehearsal, rehearse
from handler.engine.foreign.split import SplitModel
from handler.engine.precision import Precision
from handler.engine.quiet import first_line, quiet
from handler.errors import ConfigurationError, SnapshotError

_ALONE = threading.Lock()
"""Log levels, filters of warnings and torch's default dtype belong to the whole process, and are changed while
transformers makes a model. Two engines that load at once would leave each other's behind."""


class ForeignArchitecture:
    """An architecture of transformers that was found fit for serving.

    Raises:
        SnapshotError: transformers does not know it, or it asks for what the engine does not do; says which.
    """

    can_quantise = False
    has_kernels = False

    def __init__(self, directory: Path) -> None:
        register()
        architecture = read_architecture(directory)
        with _ALONE, quiet("transformers"):
            try:
                # A directory of this machine: nothing is downloaded.
                self._config = AutoConfig.from_pretrained(  # nosec B615
                    directory, local_files_only=True, trust_remote_code=False
                )
                self._class = _model_class(self._config, architecture)
                tokens = context_tokens(self._config)
                self._rehearsal = _rehearse(self._class, self._config, tokens)
            except Unsuitable as reason:
                raise SnapshotError(f"{architecture} cannot be served: {reason}") from reason
            except Exception as error:  # configurations validate themselves in many ways, and models fail in more
                raise SnapshotError(
                    f"{architecture} cannot be served: transformers fails to run it ({first_line(error)})"
                ) from error
        calls = self._rehearsal.calls
        self.shape = ModelShape(
            architecture=architecture,
            vocab_size=self._rehearsal.vocab_size,
            num_layers=len(calls),
            num_kv_heads=calls[0].num_kv_heads,
            head_dim=max(calls[0].key_dim, calls[0].value_dim),
            sliding_windows=tuple(call.window for call in calls),
            context_tokens=tokens,
        )

    def load(self, tensors: Iterable[tuple[str, Tensor]], precision: Precision, max_positions: int) -> ForeignDecoder:
        """The model with its weights; it makes its own table of positions, whatever `max_positions`.

        Raises:
            ConfigurationError: the precision is one that only our decoder has.
            SnapshotError: the weights do not fit, or the model turns out to be unfit.
        """
        del max_positions
        architecture = self.shape.architecture
        if precision.quantization != "none":
            raise ConfigurationError(
                "QUANTIZATION",
                f"{precision.quantization} is not for {architecture}, which runs through transformers; use none",
            )
        with _ALONE, quiet("transformers"):
            model = load_model(self._class, self._config, tensors, precision)
            hold_frequencies(model)
            attentions = [model.get_submodule(call.module) for call in self._rehearsal.calls]
            split = SplitModel(model)
            try:
                check_rows_are_independent(split, attentions, self.shape.vocab_size, precision.device)
            except Unsuitable as reason:
                raise SnapshotError(f"{architecture} cannot be served: {reason}") from reason
        return ForeignDecoder(split, attentions)


def _model_class(config: PreTrainedConfig, architecture: str) -> type[PreTrainedModel]:
    """The class that transformers has for a decoder-only language model of this configuration."""
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if known is None or known.__name__ != architecture:
        raise Unsuitable("transformers has no causal language model of that name")
    if config.is_encoder_decoder or config.get_text_config() is not config:
        raise Unsuitable("it is more than a decoder of text")
    if getattr(config, "quantization_config", None) is not None:
        raise Unsuitable("its weights are quantised (quantization_config)")
    if known._is_stateful:  # noqa: SLF001  (transformers has no public name for it)
        raise Unsuitable("it keeps a state that is no keys and values")
    if not known._supports_attention_backend:  # noqa: SLF001
        raise Unsuitable("its attention does not go through transformers' AttentionInterface")
    return known  # type: ignore[no-any-return]


def _rehearse(model_class: type[PreTrainedModel], config: PreTrainedConfig, tokens: int) -> Rehearsal:
    with torch.device("meta"), torch.no_grad():
        model = model_class._from_config(  # noqa: SLF001  (what its public form would build is a class of its own choice)
            copy.deepcopy(config),
            dtype=torch.float32,
            attn_implementation=REHEARSED,
            experts_implementation="batched_mm",  # the form whose shapes do not depend on which experts are chosen
        )
    hold_frequencies(model)
    with torch.no_grad():
        return rehearse(model.eval(), tokens)
