"""Influence with exact, K-FAC and EK-FAC curvature, TracIn, TRAK and self-influence against dense loops."""

import numpy as np
import pytest
import torch
from torch import nn

from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.signs import Projection, rademacher
from steelyard.learners import SGD, Torch
from steelyard.problem import Problem
from steelyard.records import Examples
from steelyard.score.gauss_newton import GaussNewton
from steelyard.score.gradient_products import GradCos, GradDot, TracIn
from steelyard.score.kronecker import EKFAC, KFAC
from steelyard.score.self_influence import SelfInfluence
from steelyard.score.trak import TRAK

pytestmark = pytest.mark.reference
N, Q, CLASSES = 23, 5, 3


def data(*, weighted: bool = False, regression: bool = False) -> tuple[Examples, Examples]:
    from steelyard.data import read

    rng = np.random.default_rng(0)
    x = rng.normal(size=(N + Q, 4)).astype(np.float64)
    x[7] = x[3]  # a duplicate
    imbalanced = np.where(rng.random(N + Q) < 0.7, 0, rng.integers(0, CLASSES, N + Q))
    y = rng.normal(size=(N + Q, 2)) if regression else imbalanced.astype(np.int64)
    y[7] = y[3]
    train = {"input": x[:N], "label": y[:N], "id": np.array([f"t{i}" for i in range(N)])}
    if weighted:
        train["weight"] = rng.choice([0.0, 0.5, 1.0, 3.0], N)
    query = {"input": x[N:], "label": y[N:], "id": np.array([f"q{i}" for i in range(Q)])}
    if weighted:
        query["weight"] = np.ones(Q)
    return read(train), read(query)


def network(outputs: int = CLASSES, *, deep: bool = True) -> nn.Module:
    torch.manual_seed(3)
    if not deep:
        return nn.Linear(4, outputs).double()
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs, bias=False)).double()


def problem(net: nn.Module, *, decay: float = 0.0, weighted: bool = False, **settings) -> Problem:
    train, query = data(weighted=weighted, regression=settings.get("loss") == "mse")
    recipe = SGD(lr=0.1, epochs=1, batch_size=8, weight_decay=decay)
    return Problem(Torch(net, recipe=recipe, trained=True, **settings), train, query)


def dense(p: Problem, examples: Examples, of: str) -> np.ndarray:
    fitted = p.learner.explained(p.train)
    return TorchGradients(p.learner, fitted, dtype=torch.float64).dense(examples, of)


def gauss_newton_by_hand(p: Problem, decay: float) -> np.ndarray:
    """Sum over examples of J^T H J, with the Jacobian of one example at a time."""
    model = p.learner.load(p.learner.explained(p.train))
    parameters = list(model.parameters())
    total, weights = 0.0, p.train.weights()
    for i, batch in enumerate(p.learner.batches(p.train, 1)):
        outputs = model(batch["input"])[0]
        jacobian = np.stack([
            torch.cat([g.flatten() for g in torch.autograd.grad(o, parameters, retain_graph=True)]).numpy()
            for o in outputs
        ])  # fmt: skip
        prob = outputs.detach().softmax(0).numpy()
        total = total + weights[i] * jacobian.T @ (np.diag(prob) - np.outer(prob, prob)) @ jacobian
    return total + (weights > 0).sum() * decay * np.eye(len(total))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_gauss_newton_influence(decay: float, weighted: bool) -> None:
    p = problem(network(), decay=decay, weighted=weighted)
    present = (p.train.weights() > 0).sum()  # an example of weight 0 is absent
    curvature = gauss_newton_by_hand(p, decay) + present * 0.02 * np.eye(40)
    expected = dense(p, p.query, "loss") @ np.linalg.solve(curvature, dense(p, p.train, "loss").T)
    expected = expected.T * p.train.weights()[:, None]
    np.testing.assert_allclose(GaussNewton(damping=0.02)(p).values, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", [KFAC, EKFAC])
@pytest.mark.parametrize("weighted", [False, True])
def test_kronecker_is_exact_for_one_linear_layer_with_squared_loss(method, weighted: bool) -> None:
    p = problem(network(2, deep=False), decay=0.03, weighted=weighted, loss="mse")
    exact = GaussNewton(damping=0.05)(p).values
    np.testing.assert_allclose(method(damping=0.05, fisher="exact")(p).values, exact, rtol=1e-7, atol=1e-10)


def kronecker_by_hand(p: Problem, *, corrected: bool, damping: float) -> np.ndarray:
    """Layer by layer with explicit loops: factors, eigenbases, corrected eigenvalues, dense inverse."""
    model = p.learner.load(p.learner.explained(p.train))
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    weights = p.train.weights()
    pseudo = [[] for _ in layers]  # per layer: one (weight, input, [output gradients]) per example
    for i, batch in enumerate(p.learner.batches(p.train, 1)):
        inputs, outs = [], []

        def record(_, arguments, output, inputs=inputs, outs=outs) -> None:
            inputs.append(arguments[0][0])
            outs.append(output)

        hooks = [layer.register_forward_hook(record) for layer in layers]
        logits = model(batch["input"])
        for hook in hooks:
            hook.remove()
        prob = logits.detach().softmax(1)[0]
        root = torch.diag(prob.sqrt()) - torch.outer(prob, prob.sqrt())
        for index, layer in enumerate(layers):
            grads = [torch.autograd.grad((logits[0] * root[:, r]).sum(), outs[index], retain_graph=True)[0][0].numpy()
                     for r in range(CLASSES)]  # fmt: skip
            a = inputs[index].detach().numpy()
            pseudo[index].append((weights[i], np.append(a, 1.0) if layer.bias is not None else a, grads))
    g, q = split(p, dense(p, p.train, "loss"), layers), split(p, dense(p, p.query, "loss"), layers)
    scores, present = np.zeros((N, Q)), (weights > 0).sum()
    for index in range(len(layers)):
        total = sum(w for w, _, _ in pseudo[index])
        second_in = sum(w * np.outer(a, a) for w, a, _ in pseudo[index]) / total
        second_out = sum(w * np.outer(v, v) for w, _, grads in pseudo[index] for v in grads) / present
        va, ua = np.linalg.eigh(second_in)
        vg, ug = np.linalg.eigh(second_out)
        values = np.outer(vg, va)
        if corrected:
            values = (
                sum(w * (ug.T @ np.outer(v, a) @ ua) ** 2 for w, a, grads in pseudo[index] for v in grads)
                / present
            )
        for i in range(N):
            for j in range(Q):
                rotated = (ug.T @ g[index][i] @ ua) * (ug.T @ q[index][j] @ ua)
                scores[i, j] += weights[i] * (rotated / (present * (values + damping))).sum()
    return scores


def split(p: Problem, rows: np.ndarray, layers: list[nn.Linear]) -> list[np.ndarray]:
    found, start = [], 0
    for layer in layers:
        size = layer.weight.numel()
        matrix = rows[:, start : start + size].reshape(len(rows), *layer.weight.shape)
        start += size
        if layer.bias is not None:
            bias = rows[:, start : start + len(layer.bias)]
            matrix = np.concatenate([matrix, bias[:, :, None]], axis=2)
            start += len(layer.bias)
        found.append(matrix)
    return found


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("method", "corrected"), [(KFAC, False), (EKFAC, True)])
def test_kronecker_influence_layer_by_layer(method, corrected: bool, weighted: bool) -> None:
    p = problem(network(), weighted=weighted)
    expected = kronecker_by_hand(p, corrected=corrected, damping=0.01)
    np.testing.assert_allclose(
        method(damping=0.01, fisher="exact")(p).values, expected, rtol=1e-7, atol=1e-10
    )


def test_sampled_fisher_converges_to_the_exact_one() -> None:
    from steelyard.gradients.fisher import fisher_gradients

    p = problem(network())
    engine = TorchGradients(p.learner, p.learner.explained(p.train), dtype=torch.float64)

    def matrix(kind: str, seed: int) -> np.ndarray:
        rows = [
            engine.rows(b.factors).numpy()
            for b in fisher_gradients(engine, p.learner, p.train, kind=kind, seed=seed)
        ]
        stacked = np.concatenate(rows)
        return stacked.T @ stacked

    exact = matrix("exact", 0)
    draws = np.stack([matrix("sampled", seed) for seed in range(400)])
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - exact) / (error + 1e-9)).max() < 5.5
    np.testing.assert_allclose(exact, gauss_newton_by_hand(p, 0.0), rtol=1e-9, atol=1e-12)


def test_margin_scores_fall_when_helpful_examples_go() -> None:
    loss, margin = problem(network()), problem(network(), measurement="margin")
    sign = np.sign(GradDot()(loss).values * GradDot()(margin).values)
    assert sign.mean() > 0.99  # what lowers a loss raises its margin: both are positive when helpful


def test_tracin_is_the_derivative_of_one_step() -> None:
    train, query = data()
    net = network()
    recipe = SGD(lr=0.05, epochs=1, batch_size=N, checkpoints=1)
    learner = Torch(net, recipe=recipe, start="given")
    p = Problem(learner, train, query)
    # The checkpoint that counts for a single step is the one before it: the given parameters.
    start = Problem(Torch(net, recipe=recipe, trained=True), train, query)
    expected = np.zeros((N, Q))
    for i in range(N):
        for eps, side in ((1e-4, 1), (-1e-4, -1)):
            weights = np.ones(N)
            weights[i] += eps
            expected[i] -= side * learner.measure(learner.fit(train, weights, seed=0), query) / 2e-4
    at_start = 0.05 / N * dense(start, train, "loss") @ dense(start, query, "loss").T
    np.testing.assert_allclose(at_start, expected, rtol=0.2, atol=2e-4 * np.abs(expected).max() + 2e-5)
    fitted = learner.explained(train)
    at_end = sum(
        rates / N * TorchGradients(learner, m).dense(train) @ TorchGradients(learner, m).dense(query).T
        for m, rates in learner.checkpoints(fitted)
    )
    np.testing.assert_allclose(TracIn()(p).values, at_end, rtol=1e-6, atol=1e-12)


def test_cosines_and_dots() -> None:
    p = problem(network())
    g, q = dense(p, p.train, "loss"), dense(p, p.query, "loss")
    np.testing.assert_allclose(GradDot()(p).values, g @ q.T, rtol=1e-9, atol=1e-12)
    cosine = (g @ q.T) / np.linalg.norm(g, axis=1)[:, None] / np.linalg.norm(q, axis=1)
    np.testing.assert_allclose(GradCos()(p).values, cosine, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("curvature", ["ekfac", "kfac", "exact", "identity"])
def test_self_influence_is_the_diagonal(curvature: str) -> None:
    p = problem(network(), weighted=True)
    both = Problem(p.learner, p.train, p.train)
    method = {"ekfac": EKFAC(0.01), "kfac": KFAC(0.01), "exact": GaussNewton(0.01), "identity": GradDot()}[
        curvature
    ]
    expected = np.diag(method(both).values)
    found = SelfInfluence(curvature, damping=0.01)(p)
    np.testing.assert_allclose(found.values[:, 0], expected, rtol=1e-6, atol=1e-12)
    assert found.suspect == "high"


def test_trak_by_hand() -> None:
    p = problem(network())
    g, q = dense(p, p.train, "loss"), dense(p, p.query, "loss")
    fitted = p.learner.explained(p.train)
    prob = p.learner.probabilities(fitted, p.train)[np.arange(N), p.train.labels()]
    sizes = {"0": (5, 5), "2": (3, 5)}
    signs = {
        name: rademacher(rows * columns, 16, seed=0, name=f"{name}/dense") / 4.0
        for name, (rows, columns) in sizes.items()
    }
    layers = [m for m in p.learner.load(fitted).modules() if isinstance(m, nn.Linear)]

    def features(rows: np.ndarray) -> np.ndarray:
        parts = split(p, rows, layers)
        return sum(part.reshape(len(rows), -1) @ signs[name] for part, name in zip(parts, sizes, strict=True))

    margins = -features(g) / (1 - prob)[:, None]
    kernel = np.linalg.inv(margins.T @ margins + 0.5 * np.eye(16))
    # Chain rule: the query's loss has gradient -(1 - p) times its margin's, so losses stay as they are.
    expected = -(margins @ kernel @ features(q).T) * (1 - prob)[:, None]
    found = TRAK(dimension=16, regularisation=0.5)(p).values
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    assert Projection(16).kind == "dense"
