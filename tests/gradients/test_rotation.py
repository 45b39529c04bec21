"""Gradients in an eigenbasis, whichever side is turned first, and the second moments that it is made of."""

import pytest
import torch

from steelyard.gradients.factorisations import Moments, Weighted, accumulate, second
from steelyard.gradients.factors import Outer
from steelyard.gradients.kronecker import EigenBlock


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("positions", [1, 3, 40])
@pytest.mark.parametrize("sides", ["both", "left", "right", "none"])
def test_rotating_factors_equals_turning_their_matrices(positions: int, bias: bool, sides: str) -> None:
    torch.manual_seed(0)
    rows, columns = 7, 5
    factors = Outer(
        torch.randn(6, positions, columns - bias, dtype=torch.float64),
        torch.randn(6, positions, rows, dtype=torch.float64),
        bias,
    )
    left, right = (
        torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q for width in (rows, columns)
    )
    block = EigenBlock(
        left if sides in ("both", "left") else None,
        right if sides in ("both", "right") else None,
        torch.ones(rows, columns),
    )
    torch.testing.assert_close(block.rotate(factors), block.turn(factors.full()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [1, 200, 256, 301, 520])
@pytest.mark.parametrize("weighted", [True, False])
def test_second_moments_are_sums_of_outer_products(width: int, weighted: bool) -> None:
    torch.manual_seed(0)
    rows = torch.randn(9, width, dtype=torch.float64)
    weights = torch.rand(9, dtype=torch.float64) if weighted else None
    expected = torch.einsum("ni,n,nj->ij", rows, torch.ones(9).double() if weights is None else weights, rows)
    found = second(rows, weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_inputs_of_positions_without_gradient_do_not_count() -> None:
    torch.manual_seed(0)
    grads = torch.randn(4, 6, 3, dtype=torch.float64)
    grads[1, 2:] = 0
    grads[3, :, 0] = 0  # its first number alone is zero
    factors = Outer(torch.randn(4, 6, 5, dtype=torch.float64), grads, True)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    moments = Moments()
    accumulate("kfac")(moments, factors, Weighted({"a": factors}, weights, first=True))
    mask = torch.ones(4, 6, dtype=torch.float64)
    mask[1, 2:] = 0
    scale = weights[:, None] * mask
    expected = torch.einsum("nti,nt,ntj->ij", factors.inputs, scale, factors.inputs)
    assert moments.right is not None
    torch.testing.assert_close(moments.right, expected, rtol=1e-12, atol=1e-12)
    assert moments.positions == pytest.approx(float(scale.sum()))
