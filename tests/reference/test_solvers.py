"""Solvers of the damped curvature system against dense matrices, in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from steelyard.collect.gradients import open_gradients
from steelyard.collect.solving import open_system
from steelyard.errors import CapabilityError, NumericsError, SettingError
from steelyard.gradients.products import block_positions
from steelyard.gradients.solvers import (
    conjugate_gradient,
    lanczos,
    low_rank_solve,
    nystrom,
)
from steelyard.learners import SGD, Torch
from steelyard.learners.torch_losses import Loss
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run
from steelyard.score.gauss_newton import GaussNewton
from steelyard.score.solvers import CG, Arnoldi, LiSSA, Nystrom
from tests.reference.test_influence import dense, gauss_newton_by_hand, network, problem

pytestmark = pytest.mark.reference
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


def system(p: Problem, curvature: str = "gauss_newton", precision: str = "float64"):
    return open_system(p, in_memory(), method="test", curvature=curvature, precision=precision)


@pytest.mark.parametrize("weighted", [False, True])
def test_gauss_newton_products_equal_the_matrix(weighted: bool) -> None:
    p = problem(network(), weighted=weighted)
    present = (p.train.weights() > 0).sum()
    matrix = gauss_newton_by_hand(p, 0.0) / present
    vectors = torch.randn(7, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = system(p).curvature(vectors).numpy()
    np.testing.assert_allclose(found, vectors.numpy() @ matrix, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_hessian_products_equal_finite_differences(weighted: bool) -> None:
    p = problem(network(), weighted=weighted)
    s = system(p, "hessian")
    weights = p.train.weights()
    vectors = torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = s.curvature(vectors).numpy()
    model = s.engine.model
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()

    def gradient(at: torch.Tensor) -> np.ndarray:
        torch.nn.utils.vector_to_parameters(at, model.parameters())
        rows = s.engine.dense(p.train, "loss")
        torch.nn.utils.vector_to_parameters(start, model.parameters())
        return (weights[:, None] * rows).sum(0) / (weights > 0).sum()

    for vector, product in zip(vectors, found, strict=True):
        expected = (gradient(start + 1e-5 * vector) - gradient(start - 1e-5 * vector)) / 2e-5
        np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-8)


def test_fisher_products_equal_the_outer_products_of_drawn_gradients() -> None:
    from steelyard.gradients.fisher import fisher_gradients

    p = problem(network(), weighted=True)
    s = system(p, "fisher")
    s = type(s)(**{**vars(s), "curvature": type(s.curvature)(**{**vars(s.curvature), "fisher": "sampled"})})
    train, weights = s.curvature.examples, s.curvature.weights
    matrix = np.zeros((40, 40))
    for batch in fisher_gradients(
        s.engine, p.learner, train, kind="sampled", weights=weights, seed=s.curvature.seed
    ):
        rows = s.engine.rows(batch.factors).numpy()
        matrix += rows.T @ (rows * batch.weights.numpy()[:, None])
    vectors = torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    np.testing.assert_allclose(
        s.curvature(vectors).numpy(), vectors.numpy() @ matrix / len(train), rtol=1e-9, atol=1e-12
    )


SETTINGS = [
    pytest.param(CG(damping=0.02, tolerance=1e-12, iterations=400), id="cg"),
    pytest.param(LiSSA(damping=0.3, iterations=250, batch_size=1000), id="lissa"),
    pytest.param(Arnoldi(damping=0.02, rank=40, steps=40), id="arnoldi"),
    pytest.param(Nystrom(damping=0.02, rank=40), id="nystrom"),
    pytest.param(Nystrom(damping=0.02, rank=40, sketch="columns"), id="nystrom-columns"),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("method", SETTINGS)
def test_every_solver_reaches_the_dense_solution(method, decay: float, weighted: bool) -> None:
    p = problem(network(), decay=decay, weighted=weighted)
    expected = GaussNewton(damping=method.damping)(p).values
    found = method(p)
    np.testing.assert_allclose(found.values, expected, **CLOSE)
    told = found.provenance.resolved
    assert told.get("residual_largest", told.get("residual_first_query")) < 1e-6


def test_the_default_damping_is_that_of_gauss_newton() -> None:
    p = problem(network(), decay=0.01, weighted=True)
    found, exact = CG(tolerance=1e-12, iterations=400)(p), GaussNewton()(p)
    np.testing.assert_allclose(
        found.provenance.resolved["damping"], exact.provenance.resolved["damping"], rtol=1e-9
    )
    np.testing.assert_allclose(found.values, exact.values, **CLOSE)


def test_minibatches_of_lissa_come_near_the_solution() -> None:
    p = problem(network())
    expected = GaussNewton(damping=0.3)(p).values
    found = LiSSA(damping=0.3, iterations=60, batch_size=8, repeats=4)(p).values
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97
    slope = np.polyfit(found.ravel(), expected.ravel(), 1)[0]
    assert 0.85 < slope < 1.15


def test_a_series_that_diverges_is_an_error_and_no_score() -> None:
    p = problem(network())
    with pytest.raises(NumericsError, match="diverges"):
        LiSSA(damping=0.02, scale=0.05, iterations=200)(p)


def test_lissa_says_when_it_has_not_converged() -> None:
    p = problem(network())
    found = LiSSA(damping=1e-6, iterations=2)(p)
    assert found.provenance.resolved["residual_largest"] > 0.3


def test_float32_model_solved_in_float64() -> None:
    p = problem(network())
    narrow = Problem(Torch(network().float(), trained=True), p.train, p.query)
    wide = Problem(Torch(network().float().double(), trained=True), p.train, p.query)
    found = CG(damping=0.02, tolerance=1e-10, iterations=200, precision="float64")(narrow)
    expected = GaussNewton(damping=0.02)(wide).values
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-8)
    own = CG(damping=0.02, tolerance=1e-5, precision="model")(narrow)
    np.testing.assert_allclose(own.values, expected, rtol=1e-2, atol=1e-4)
    assert own.provenance.resolved["precision"] == "float32"


def test_hessian_that_is_not_positive_definite_is_refused() -> None:
    p = problem(network())
    with pytest.raises(NumericsError, match="positive definite"):
        CG(damping=0.0, curvature="hessian", iterations=200, tolerance=1e-12)(p)
    matrix = system(p, "hessian").curvature(torch.eye(40, dtype=torch.float64)).numpy()
    lowest = np.linalg.eigvalsh((matrix + matrix.T) / 2)[0]
    damping = 0.5 - lowest
    found = CG(damping=damping, curvature="hessian", tolerance=1e-12, iterations=300)(p).values
    solved = np.linalg.solve(matrix + damping * np.eye(40), dense(p, p.query, "loss").T)
    expected = dense(p, p.train, "loss") @ solved / len(p.train)
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_a_loss_without_known_outputs_falls_back_to_drawn_or_given_labels() -> None:
    def own(model: nn.Module, batch) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(batch["input"]), batch["label"], reduction="none")

    p = problem(network())
    asked = Problem(Torch(network(), loss=Loss(own), trained=True), p.train, p.query)
    found = CG(damping=0.05, tolerance=1e-10)(asked)
    assert found.provenance.resolved["curvature"] == "fisher"
    g = dense(p, p.train, "loss")
    matrix = g.T @ g / len(g) + 0.05 * np.eye(40)
    expected = g @ np.linalg.solve(matrix, dense(p, p.query, "loss").T) / len(g)
    np.testing.assert_allclose(found.values, expected, **CLOSE)
    with pytest.raises(CapabilityError, match="curvature of this loss"):
        CG(curvature="gauss_newton")(asked)


def test_solutions_are_kept_and_read_again(tmp_path) -> None:
    p = problem(network())
    for method in (CG(damping=0.02), Arnoldi(damping=0.02, rank=10)):
        folder = tmp_path / type(method).__name__
        with open_run(folder, {"command": "t"}, show="quiet") as run:
            first = method(p, run)
            spent = run.cost.gradients
            for path in sorted((run.folder / "score").rglob("*")) if (run.folder / "score").exists() else ():
                if path.is_file():
                    path.unlink()
            again = method(p, run)
            assert run.cost.gradients - spent < spent / 3
        np.testing.assert_array_equal(first.values, again.values)


def test_positions_of_blocks_put_gradients_where_rows_do() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3, bias=False)).double()
    p = problem(network())
    p = Problem(Torch(net, trained=True, recipe=SGD(lr=0.1, epochs=1)), p.train, p.query)
    engine = open_gradients(p, in_memory(), method="t", instead="t").gradients
    positions = block_positions(engine, p.train)
    found = next(iter(engine.capture(p.train, "loss")))
    rows = engine.rows(found)
    for name, place in positions.items():
        torch.testing.assert_close(rows[:, place.flatten()], found[name].full().flatten(1))
    assert sorted(torch.cat([place.flatten() for place in positions.values()]).tolist()) == list(
        range(engine.size)
    )


def test_damping_of_zero_without_penalty_is_refused_where_it_divides() -> None:
    with pytest.raises(SettingError, match="no penalty"):
        Arnoldi(damping=0.0)(problem(network()))


def spd(size: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(size, size)))[0]
    return torch.from_numpy((q * np.geomspace(1e-3, 10, size)) @ q.T)


def test_lanczos_finds_repeated_eigenvalues_and_zero_curvature() -> None:
    matrix = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64))

    def start(number: int) -> torch.Tensor:
        return torch.randn(1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(number))

    pairs = lanczos(lambda v: v @ matrix, start, steps=8, rank=8)
    np.testing.assert_allclose(pairs.values[:5].numpy(), [3, 3, 3, 1, 1], atol=1e-8)
    torch.testing.assert_close(pairs.vectors @ pairs.vectors.T, torch.eye(len(pairs.values)).double())
    right = torch.randn(2, 8, dtype=torch.float64)
    expected = torch.linalg.solve(matrix + 0.1 * torch.eye(8), right.T).T
    torch.testing.assert_close(low_rank_solve(pairs, right, 0.1, complement=True), expected)


def test_top_eigenpairs_of_lanczos_and_nystrom_are_near_the_true_ones() -> None:
    matrix = spd(60)
    truth = torch.linalg.eigvalsh(matrix).flip(0)

    def start(number: int) -> torch.Tensor:
        return torch.randn(1, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(number))

    found = lanczos(lambda v: v @ matrix, start, steps=40, rank=5)
    np.testing.assert_allclose(found.values.numpy(), truth[:5].numpy(), rtol=1e-6)
    sketch = torch.linalg.qr(
        torch.randn(60, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ).Q.T
    found = nystrom(lambda v: v @ matrix, sketch)
    assert bool((found.values <= truth[:30] + 1e-9).all())  # never larger than the matrix
    np.testing.assert_allclose(found.values[:3].numpy(), truth[:3].numpy(), rtol=0.1)


def test_preconditioner_saves_iterations_and_does_not_move_the_solution() -> None:
    matrix = spd(60)
    right = torch.randn(3, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rough = torch.linalg.inv(matrix + 0.01 * spd(60, seed=1))
    plain = conjugate_gradient(lambda v: v @ matrix, right, tolerance=1e-8, iterations=500)
    better = conjugate_gradient(
        lambda v: v @ matrix, right, precondition=lambda v: v @ rough, tolerance=1e-8, iterations=500
    )
    expected = torch.linalg.solve(matrix, right.T).T
    torch.testing.assert_close(plain.vectors, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(better.vectors, expected, rtol=1e-4, atol=1e-4)
    assert better.iterations < plain.iterations
    assert float(better.residuals.max()) < 1e-7
