"""Widths and sides of projections, and writing them in place."""

import numpy as np
import pytest
import torch

from steelyard.gradients.factors import Outer, Rows
from steelyard.gradients.projection import block_projector
from steelyard.gradients.signs import Projection, sides


@pytest.mark.parametrize(
    ("shape", "dimension", "expected"),
    [
        ((128, 785), 512, (32, 16)),
        ((785, 128), 512, (16, 32)),
        ((10, 65), 512, (10, 51)),
        ((65, 10), 512, (51, 10)),
        ((4, 4), 512, (4, 4)),
        ((100, 100), 1000, (31, 32)),
        ((100, 100), 1, (1, 1)),
        ((1, 9), 4, (1, 4)),
    ],
)
def test_sides_are_near_square_and_within_block_and_dimension(shape, dimension, expected):
    kept = sides(shape, dimension)
    assert kept == expected
    assert kept[0] <= shape[0] and kept[1] <= shape[1]
    assert kept[0] * kept[1] <= dimension


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(40, 50), (3, 50), (50, 3), (3, 3)])
def test_written_features_equal_projected_full_gradients(positions, bias, rows, columns):
    torch.manual_seed(0)
    factors = Outer(torch.randn(5, positions, columns), torch.randn(5, positions, rows), bias)
    projector = block_projector(
        Projection(64, kind="two-sided"), factors.shape, name="layer", like=factors.grads
    )
    out = torch.full((5, projector.width + 4), np.nan)
    projector.write(factors, out[:, 2:-2])
    left = torch.eye(rows) if projector.left is None else projector.left
    expected = torch.einsum("nrc,rk,cl->nkl", factors.full(), left, projector.right).flatten(1)
    torch.testing.assert_close(out[:, 2:-2], expected, rtol=1e-4, atol=1e-4)
    assert out[:, :2].isnan().all() and out[:, -2:].isnan().all()
    torch.testing.assert_close(projector(factors), expected, rtol=1e-4, atol=1e-4)


def test_rows_without_structure_are_projected_as_they_are():
    values = torch.randn(4, 300)
    projector = block_projector(Projection(32, kind="two-sided"), (1, 300), name="norm", like=values)
    out = torch.empty(4, projector.width)
    projector.write(Rows(values), out)
    torch.testing.assert_close(out, values @ projector.right, rtol=1e-4, atol=1e-4)
