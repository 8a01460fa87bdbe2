"""Takes from rows of logits what the grammars do not allow. Owned by the sampler, so by the engine thread."""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from handler.engine.follower import Follower
from handler.engine.native.library import load_kernels

_WORD_BITS = 32


class Masks:
    """Room for the masks of a step, and what applies them."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._words = -(-vocab_size // _WORD_BITS)
        self._masks = torch.empty(0, self._words, dtype=torch.int32)
        # For each byte, whether the tokens of its bits are banned.
        self._banned = (torch.arange(256)[:, None] >> torch.arange(8) & 1 == 0).to(device)
        kernels = load_kernels() if device.type == "cpu" else None
        self._mask_rows = None if kernels is None else kernels.mask_rows

    def apply(self, logits: Tensor, followers: dict[int, Follower]) -> None:
        """Set to -inf what the followers do not allow in their rows of `logits` (R, vocab_size) float32.

        A row whose follower can go no further means nothing afterwards.
        """
        if len(self._masks) < len(followers):
            self._masks = torch.empty(len(followers), self._words, dtype=torch.int32)
        stride = self._words * self._masks.itemsize
        for index, follower in enumerate(followers.values()):
            follower.write_mask(self._masks.data_ptr() + index * stride, stride)
        if self._mask_rows is not None and logits.is_contiguous():
            rows = array("i", followers)
            address = rows.buffer_info()[0]
            self._mask_rows(logits.data_ptr(), self._vocab_size, address, len(rows), self._masks.data_ptr())
            return
        masks = self._masks[: len(followers)].view(torch.uint8).to(logits.device)
        for row, mask in zip(followers, masks, strict=True):
            banned = self._banned.index_select(0, mask.int()).view(-1)[: self._vocab_size]
            logits[row].masked_fill_(banned, float("-inf"))
