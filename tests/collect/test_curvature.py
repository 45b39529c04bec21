"""Gradients that two passes need: kept in memory where they fit, computed again where not, with the same result."""

import numpy as np
import pytest
import torch

from steelyard.collect import curvature
from steelyard.learners import Torch
from steelyard.problem import Problem
from steelyard.run import in_memory
from steelyard.score import EKFAC


def problem() -> Problem:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 3, 40)
    net = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    return Problem(Torch(net, loss="cross_entropy", trained=True), (x, y), (x[:4], y[:4]))


@pytest.mark.parametrize("fisher", ["sampled", "exact"])
def test_the_second_pass_gives_the_same_bits_from_memory_and_anew(fisher, monkeypatch) -> None:
    kept, again = in_memory(), in_memory()
    method = EKFAC(fisher=fisher)
    from_memory = method(problem(), kept).values
    monkeypatch.setattr(curvature, "_KEPT_BYTES", 100)
    anew = method(problem(), again).values
    assert np.array_equal(from_memory, anew)
    passes = 1 if fisher == "sampled" else 1 + 2 * 2 / 3
    assert again.cost.gradients - kept.cost.gradients == pytest.approx(40 * passes)
