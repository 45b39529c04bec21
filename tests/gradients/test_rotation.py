"""Gradients in an eigenbasis, whichever side is turned first: the same as turning the whole matrix."""

import pytest
import torch

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
