"""Optimal transport: equal to assignment, potentials are derivatives; least core: known games and a general solver."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, minimize

from steelyard.maths import transport as module
from steelyard.maths.least_core import least_core
from steelyard.maths.semivalues import all_coalitions
from steelyard.maths.transport import transport


def costs(sources: int = 12, targets: int = 12) -> np.ndarray:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(sources, 2)), draw.normal(size=(targets, 2)) + 0.5
    return np.sqrt(np.square(x[:, None] - y[None]).sum(axis=2))


def test_equal_sets_are_assigned():
    found = transport(costs())
    rows, columns = linear_sum_assignment(costs())
    assert found.exact
    assert found.cost == pytest.approx(costs()[rows, columns].mean())
    assert found.source.mean() + found.target.mean() == pytest.approx(found.cost)  # strong duality
    assert (found.source[:, None] + found.target[None] <= costs() + 1e-9).all()


def test_potentials_are_derivatives_of_the_cost():
    """Moving a little mass from one source to another changes the cost by the difference of their potentials."""
    from scipy.optimize import linprog

    table = costs(5, 3)
    found = transport(table)
    mass = np.full(5, 0.2)
    step = 1e-4
    mass[0], mass[3] = mass[0] + step, mass[3] - step
    rows = np.kron(np.eye(5), np.ones(3))
    columns = np.kron(np.ones(5), np.eye(3))
    moved = linprog(
        table.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.r_[mass, np.full(3, 1 / 3)], method="highs"
    )
    slope = (moved.fun - found.cost) / step
    assert slope == pytest.approx(found.source[0] - found.source[3], abs=1e-6)


def test_regularised_transport_is_close_to_exact(monkeypatch):
    table = costs(40, 30)
    exact = transport(table)
    monkeypatch.setattr(module, "LARGEST_EXACT", 10)
    found = transport(table)
    assert not found.exact
    assert found.residual < 1e-3
    assert found.cost == pytest.approx(exact.cost, rel=0.03)
    centred = [one.source - one.source.mean() for one in (found, exact)]
    assert np.corrcoef(*centred)[0, 1] > 0.98


def test_the_core_of_a_glove_market():
    """One left glove, two right ones: the left one gets all of the gain of 1."""
    masks = all_coalitions(3)
    gains = (masks[:, 0] & (masks[:, 1] | masks[:, 2])).astype(float)
    found = least_core(masks[1:-1], gains[1:-1], 1.0)
    assert found.deficit == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(found.values, [1.0, 0.0, 0.0], atol=1e-8)


def test_a_majority_has_an_empty_core_and_is_shared_equally():
    masks = all_coalitions(3)
    found = least_core(masks[1:-1], (masks.sum(1) >= 2).astype(float)[1:-1], 1.0)
    assert found.deficit == pytest.approx(1 / 3)
    np.testing.assert_allclose(found.values, 1 / 3, atol=1e-8)


def test_shares_are_the_most_equal_of_the_least_core():
    draw = np.random.default_rng(4)
    masks = all_coalitions(5)[1:-1]
    gains = masks @ draw.uniform(0, 1, 5) + 0.3 * draw.normal(size=len(masks))
    total = 2.0
    found = least_core(masks, gains, total)
    assert found.values.sum() == pytest.approx(total)
    assert (gains - masks @ found.values).max() <= found.deficit + 1e-7
    twin = minimize(
        lambda x: x @ x,
        np.full(5, total / 5),
        jac=lambda x: 2 * x,
        constraints=[
            {"type": "eq", "fun": lambda x: x.sum() - total},
            {"type": "ineq", "fun": lambda x: masks @ x - gains + found.deficit + 1e-9},
        ],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    np.testing.assert_allclose(found.values, twin.x, atol=1e-4)
