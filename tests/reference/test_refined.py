"""EK-FAC refined: nearer the exact solution than EK-FAC, and at it in the end."""

import numpy as np
import pytest
import torch

from steelyard.errors import SettingError
from steelyard.learners import SGD, Torch
from steelyard.problem import Problem
from steelyard.score.gauss_newton import GaussNewton
from steelyard.score.kronecker import EKFAC
from steelyard.score.refined import EKFACCG
from tests.reference.test_influence import dense, gauss_newton_by_hand, network, problem
from tests.reference.test_kronecker import sequences

pytestmark = pytest.mark.reference


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_conjugate_gradient_ends_at_the_exact_solution(decay: float, weighted: bool) -> None:
    p = problem(network(), decay=decay, weighted=weighted)
    found = EKFACCG(damping=0.02, iterations=200, tolerance=1e-12)(p)
    np.testing.assert_allclose(found.values, GaussNewton(damping=0.02)(p).values, rtol=1e-6, atol=1e-8)
    assert found.provenance.resolved["residual_largest"] < 1e-9


@pytest.mark.parametrize("refinement", ["cg", "astra"])
@pytest.mark.parametrize("kind", ["one position", "sequences"])
def test_a_few_iterations_beat_ekfac(kind: str, refinement: str) -> None:
    p = problem(network()) if kind == "one position" else sequences(weighted=True)
    exact = GaussNewton(damping=0.01)(p).values
    before = np.linalg.norm(EKFAC(0.01, "exact")(p).values - exact) / np.linalg.norm(exact)
    method = EKFACCG(
        damping=0.01, iterations=5 if refinement == "cg" else 60, tolerance=0.0, refinement=refinement
    )
    after = np.linalg.norm(method(p).values - exact) / np.linalg.norm(exact)
    assert before > 0.03
    assert after < 0.34 * before


def test_minibatches_of_astra_come_near() -> None:
    p = problem(network())
    exact = GaussNewton(damping=0.1)(p).values
    found = EKFACCG(damping=0.1, iterations=150, refinement="astra", batch_size=11)(p)
    before = np.linalg.norm(EKFAC(0.1, "exact")(p).values - exact) / np.linalg.norm(exact)
    assert np.linalg.norm(found.values - exact) / np.linalg.norm(exact) < 0.5 * before
    assert 0 < found.provenance.resolved["residual_largest"] < 1


def test_no_iteration_is_ekfac_itself() -> None:
    p = problem(network(), decay=0.01)
    found = EKFACCG(damping="blocks", iterations=0)(p)
    np.testing.assert_allclose(found.values, EKFAC()(p).values, rtol=1e-9, atol=1e-12)
    assert found.provenance.resolved["residual_largest"] > 1e-3


@pytest.mark.parametrize("weighted", [False, True])
def test_layers_alone_are_the_diagonal_blocks(weighted: bool) -> None:
    p = problem(network(), weighted=weighted)
    present = (p.train.weights() > 0).sum()
    matrix = gauss_newton_by_hand(p, 0.0)
    matrix[:25, 25:] = 0.0
    matrix[25:, :25] = 0.0
    matrix += present * 0.02 * np.eye(40)
    expected = dense(p, p.train, "loss") @ np.linalg.solve(matrix, dense(p, p.query, "loss").T)
    found = EKFACCG(damping=0.02, scope="layers", iterations=200, tolerance=1e-12)(p)
    np.testing.assert_allclose(found.values, expected * p.train.weights()[:, None], rtol=1e-6, atol=1e-8)


def test_damping_by_blocks_is_ekfacs_own() -> None:
    p = problem(network())
    own = EKFAC()(p).provenance.resolved["damping"]
    found = EKFACCG(damping="blocks", iterations=300, tolerance=1e-12)(p)
    assert found.provenance.resolved["damping"] == pytest.approx(own)
    shift = np.repeat([own["0"], own["2"]], [25, 15])
    matrix = gauss_newton_by_hand(p, 0.0) / len(p.train) + np.diag(shift)
    expected = dense(p, p.train, "loss") @ np.linalg.solve(matrix, dense(p, p.query, "loss").T) / len(p.train)
    np.testing.assert_allclose(found.values, expected, rtol=1e-6, atol=1e-8)


def test_damping_by_the_length_of_the_training() -> None:
    base = problem(network())
    recipe = SGD(lr=0.1, epochs=2, batch_size=8, momentum=0.5)
    p = Problem(Torch(network(), recipe=recipe), base.train, base.query)
    found = EKFACCG(damping="training")(p).provenance.resolved["damping"]
    assert found == pytest.approx(1 / (2 * 3 * 0.1 / 0.5))  # two epochs of three steps


def test_held_out_damping_is_the_best_of_its_grid_by_hand() -> None:
    from steelyard.collect.curvature import hold_out
    from steelyard.collect.held_out import held_out_damping
    from steelyard.collect.solving import open_system
    from steelyard.run import in_memory

    p = problem(network(), decay=0.01)
    s = open_system(p, in_memory(), method="t", curvature="auto", precision="auto")
    train = s.curvature.examples
    rest, held = hold_out(train)
    seen, other = (
        gauss_newton_by_hand(Problem(p.learner, train.take(rows), p.query), 0.01) / len(rows)
        for rows in (rest, held)
    )
    gradients = dense(p, train.take(held), "loss")
    mean = np.trace(gauss_newton_by_hand(p, 0.01)) / 40 / len(train)

    def criterion(damping: float) -> float:
        x = np.linalg.solve(seen + damping * np.eye(40), gradients.T).T
        judged = 0.5 * np.einsum("ij,jk,ik->i", x, other, x) - (x * gradients).sum(1)
        # torch's median of an even number is the lower of the two in the middle
        return float(torch.from_numpy(judged / np.square(gradients).sum(1)).median())

    value, reason = held_out_damping(s)
    grid = [mean * 10.0**e for e in np.arange(1.5, -4.1, -0.5)]
    curve = [criterion(damping) for damping in grid]
    best = int(np.argmin(curve))
    assert min(criterion(value), criterion(value)) <= min(curve[: best + 1]) + 0.02 * abs(min(curve))
    assert "held-out" in reason


def test_settings_without_meaning() -> None:
    p = problem(network())
    for method in (EKFACCG(damping=-1.0), EKFACCG(iterations=-1), EKFACCG(batch_size=0)):
        with pytest.raises(SettingError):
            method(p)
