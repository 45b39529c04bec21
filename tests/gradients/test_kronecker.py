"""Edges of Kronecker metrics."""

import pytest
import torch

from steelyard.errors import NumericsError
from steelyard.gradients.factors import Rows
from steelyard.gradients.kronecker import EigenBlock, KroneckerMetric


def metric(values: torch.Tensor, *, damping: float = 0.0, decay: float = 0.0) -> KroneckerMetric:
    block = EigenBlock(None, None, values)
    return KroneckerMetric({"layer": block}, {"layer": damping}, decay, 10.0)


def test_a_block_that_no_training_gradient_reaches_has_no_influence():
    found = metric(torch.zeros(1, 3)).apply("layer", Rows(torch.ones(2, 3)))
    torch.testing.assert_close(found, torch.zeros(2, 1, 3))


def test_one_direction_without_curvature_and_no_damping_is_refused():
    with pytest.raises(NumericsError, match="no damping"):
        metric(torch.tensor([[1.0, 0.0, 2.0]])).inverse("layer")


def test_damping_and_decay_make_a_flat_block_invertible():
    found = metric(torch.zeros(1, 3), damping=0.3, decay=0.2).inverse("layer")
    torch.testing.assert_close(found, torch.full((1, 3), 1 / (10 * 0.5)))
