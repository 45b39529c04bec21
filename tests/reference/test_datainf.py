"""DataInf against its formula, written out with one dense inverse per example and layer."""

import numpy as np
import pytest
import torch
from torch import nn

from steelyard.errors import SettingError
from steelyard.learners import SGD, Torch
from steelyard.problem import Problem
from steelyard.score.datainf import DataInf
from steelyard.score.gauss_newton import GaussNewton
from tests.reference.test_influence import dense, network, problem

pytestmark = pytest.mark.reference


def by_hand(p: Problem, sizes: list[int], damping: float | None, decay: float) -> np.ndarray:
    """Mean over examples of ``(w g g' + damping I)^-1``, formed as matrices, per layer."""
    g, q, weights = dense(p, p.train, "loss"), dense(p, p.query, "loss"), p.train.weights()
    present = np.flatnonzero(weights)
    scores, start = np.zeros((len(g), len(q))), 0
    for size in sizes:
        rows, asked = g[:, start : start + size], q[:, start : start + size]
        start += size
        mean = (weights[present, None] * rows[present] ** 2).sum() / len(present) / size
        value = (0.1 * mean if damping is None else damping) + decay
        inverse = np.mean(
            [np.linalg.inv(weights[i] * np.outer(rows[i], rows[i]) + value * np.eye(size)) for i in present],
            axis=0,
        )
        scores += weights[:, None] * (rows @ inverse @ asked.T) / len(present)
    return scores


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("damping", "decay"), [(None, 0.0), (None, 0.02), (0.3, 0.0)])
def test_equals_its_formula(damping: float | None, decay: float, weighted: bool) -> None:
    p = problem(network(), weighted=weighted, decay=decay)
    expected = by_hand(p, [25, 15], damping, decay)
    found = DataInf("auto" if damping is None else damping)(p)
    np.testing.assert_allclose(found.values, expected, rtol=1e-8, atol=1e-12)


class LowRank(nn.Module):
    """A frozen layer with a trainable adapter of rank two, as LoRA has it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 3).requires_grad_(False)
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen(x) + self.up(self.down(x))


@pytest.mark.parametrize("fresh", [False, True])
def test_adapters_of_low_rank(fresh: bool) -> None:
    torch.manual_seed(1)
    net = LowRank().double()
    if fresh:  # LoRA begins with up = 0, where down has no gradient at all
        nn.init.zeros_(net.up.weight)
    base = problem(network())
    p = Problem(Torch(net, trained=True, recipe=SGD(lr=0.1, epochs=1)), base.train, base.query)
    found = DataInf()(p).values
    assert np.isfinite(found).all()
    if not fresh:
        np.testing.assert_allclose(found, by_hand(p, [8, 6], None, 0.0), rtol=1e-8, atol=1e-12)


def test_exact_where_all_gradients_are_the_same_up_to_sign() -> None:
    """One input repeated and targets of plus or minus one: every gradient is the same vector up to its sign."""
    from steelyard.data import read

    net = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    x = np.tile(np.array([[1.0, 2.0]]), (6, 1))
    y = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])[:, None]
    train = read({"input": x, "label": y, "id": np.array([f"t{i}" for i in range(6)])})
    query = read({"input": x[:2] + 1, "label": y[:2], "id": np.array(["a", "b"])})
    p = Problem(Torch(net, loss="mse", trained=True), train, query)
    g, q = dense(p, train, "loss"), dense(p, query, "loss")
    curvature = g.T @ g / 6 + 0.3 * np.eye(2)
    np.testing.assert_allclose(DataInf(0.3)(p).values, g @ np.linalg.solve(curvature, q.T) / 6, rtol=1e-10)


def test_further_from_exact_as_gradients_differ() -> None:
    p = problem(network())
    exact = GaussNewton(damping=0.05)(p).values
    assert np.corrcoef(DataInf(0.05)(p).values.ravel(), exact.ravel())[0, 1] < 0.999


def test_a_damping_that_is_not_positive_is_refused() -> None:
    for value in (0.0, -1.0):
        with pytest.raises(SettingError, match="positive"):
            DataInf(value)(problem(network()))
