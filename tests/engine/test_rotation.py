from __future__ import annotations

import pytest
import torch

from handler.engine.rotation import Rotation


@pytest.mark.parametrize("size", [1, 2, 64, 96, 576, 33])
def test_rows_and_columns_multiply_by_one_orthogonal_matrix(size: int) -> None:
    rotation = Rotation(size)
    matrix = rotation.matrix()
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(size), atol=1e-5, rtol=0)
    weight = torch.randn(7, size, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rotation.columns(weight), weight @ matrix)
    torch.testing.assert_close(rotation.rows(weight.t()), matrix.t() @ weight.t())
    torch.testing.assert_close(rotation.rows(weight[0]), matrix.t() @ weight[0])


def test_the_rotation_is_always_the_same() -> None:
    assert torch.equal(Rotation(96).matrix(), Rotation(96).matrix())


def test_no_channel_stands_out_any_more() -> None:
    """The residual stream of the embedded model: one channel holds nearly all of a row."""
    rows = torch.randn(50, 576, generator=torch.Generator().manual_seed(2))
    rows[:, 17] *= 100

    def peak(x: torch.Tensor) -> float:
        return float((x.abs().amax(dim=1) / x.square().mean(dim=1).sqrt()).mean())

    assert peak(rows) > 15
    assert peak(Rotation(576).columns(rows)) < 7
