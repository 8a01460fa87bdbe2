"""Decides by whom a model is computed: our decoder where it knows the architecture, else transformers' classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from torch import Tensor

from handler.boot import BootTimeline
from handler.engine.attention import PagedAttention, Tile
from handler.engine.config import ModelConfig, ModelShape, read_architecture, read_config
from handler.engine.kv_cache import KvCache
from handler.engine.lean_torch import complete_torch
from handler.engine.loader import load_decoder
from handler.engine.model import Decoder
from handler.engine.native.decoder import NativeDecoder
from handler.engine.precision import Precision
from handler.errors import ConfigurationError, UnsupportedModelError


class AnyDecoder(Protocol):
    """What the runner needs of a model: see `Decoder`."""

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        tiles: list[Tile],
        attention: PagedAttention,
        cache: KvCache,
    ) -> Tensor:
        """Run all layers: (T,) int64 thrice -> hidden states (T, hidden_size)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden` (R, hidden_size) -> float32 logits (R, vocab_size)."""


class Architecture(Protocol):
    """A model directory that can be served, before its weights are read."""

    @property
    def shape(self) -> ModelShape:
        """What the engine needs to know of it."""

    @property
    def can_quantise(self) -> bool:
        """Whether there is an int8 form of it; see `quantised.py`."""

    @property
    def has_kernels(self) -> bool:
        """Whether the compiled kernels can compute that form on this machine's CPU."""

    def load(self, tensors: Iterable[tuple[str, Tensor]], precision: Precision, max_positions: int) -> AnyDecoder:
        """The decoder, made of the snapshot's tensors.

        Raises:
            ConfigurationError: the precision is not for this architecture.
            SnapshotError: the tensors do not fit.
        """


class OwnArchitecture(msgspec.Struct, frozen=True):
    """One that our decoder knows."""

    shape: ModelConfig
    can_quantise: Literal[True] = True

    @property
    def has_kernels(self) -> bool:
        """Those for the CPU."""
        return NativeDecoder.fits(self.shape)

    def load(self, tensors: Iterable[tuple[str, Tensor]], precision: Precision, max_positions: int) -> Decoder:
        """Our decoder in floating point."""
        return load_decoder(self.shape, tensors, precision, max_positions)


def open_architecture(directory: Path, timeline: BootTimeline) -> Architecture:
    """What `directory/config.json` describes. transformers is imported only for what our decoder does not know.

    Raises:
        CorruptSnapshotError: the file cannot be read.
        SnapshotError: neither our decoder nor our cache under transformers' classes can do what the model asks for.
        ConfigurationError: it needs transformers, which is not installed.
    """
    try:
        return OwnArchitecture(read_config(directory))
    except UnsupportedModelError as unsupported:
        with timeline.phase("import_transformers"):
            try:
                complete_torch()  # transformers' models are rehearsed on the meta device
                from handler.engine.foreign.architecture import ForeignArchitecture  # noqa: PLC0415  (1.4 s)
            except ModuleNotFoundError as error:
                if error.name != "transformers":
                    raise
                raise ConfigurationError(
                    "MODEL_NAME",
                    f"{read_architecture(directory)} runs through transformers ({unsupported}), which is not "
                    "installed: pip install 'pilotlight[transformers]'",
                ) from error
        with timeline.phase("rehearsal"):
            return ForeignArchitecture(directory)
