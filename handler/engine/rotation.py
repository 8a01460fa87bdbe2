"""A fixed orthogonal change of basis of the residual stream, which makes activations fit for int8.

A few channels of a trained model's residual stream are tens of times larger than the others, and set the scale of a
row's quantisation for all of them. In a random basis no channel stands out. The decoder's result is the same, because
RMS norm does not change under rotation once its weights are folded into the layers that follow it (QuaRot,
arXiv:2404.00456).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from handler.engine.lean_torch import complete_torch

_SEED = 0


class Rotation:
    """R = signs * (Q x H): random signs, a Kronecker product of a random orthogonal Q and a Hadamard matrix H.

    H covers the power of two in `size`, Q the odd rest, so that rotating a matrix costs far less than a product.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.size = size
        power = size & -size
        complete_torch()  # a generator of one's own needs what is put off
        generator = torch.Generator().manual_seed(_SEED)
        normal = torch.randn(size // power, size // power, generator=generator, dtype=torch.float64)
        self._odd = torch.linalg.qr(normal)[0].float().to(device)
        self._hadamard = _hadamard(power).to(device)
        self._signs = (torch.randint(0, 2, (size,), generator=generator).float() * 2 - 1).to(device)

    def columns(self, weight: Tensor) -> Tensor:
        """`weight` @ R: (N, size) -> float32 (N, size); for what reads the residual stream."""
        signed = (weight.float() * self._signs).view(len(weight), len(self._odd), len(self._hadamard))
        mixed = signed @ self._hadamard
        return torch.einsum("nij,ik->nkj", mixed, self._odd).reshape(weight.shape)

    def rows(self, weight: Tensor) -> Tensor:
        """R transposed @ `weight`: (size, N) or (size,) -> float32; for what writes to the residual stream."""
        if weight.dim() == 1:
            return self.columns(weight.unsqueeze(0)).squeeze(0)
        return self.columns(weight.t()).t()

    def matrix(self) -> Tensor:
        """R itself, (size, size)."""
        return self.columns(torch.eye(self.size, device=self._signs.device))


def _hadamard(size: int) -> Tensor:
    """Sylvester's orthogonal Hadamard matrix; `size` is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix / math.sqrt(size)
