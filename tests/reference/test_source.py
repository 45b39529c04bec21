"""SOURCE against matrix exponentials by hand, and against exact unrolling where its assumptions hold."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from steelyard.data import read
from steelyard.errors import CapabilityError, SettingError
from steelyard.gradients.dense import gauss_newton
from steelyard.gradients.engine import TorchGradients
from steelyard.learners import SGD, Adam, AdamW, Stage, Stages, Torch
from steelyard.problem import HasSpans, Problem
from steelyard.records import Examples
from steelyard.score.gauss_newton import GaussNewton
from steelyard.score.gradient_products import TracIn
from steelyard.score.replay import Replay
from steelyard.score.source import SOURCE

pytestmark = pytest.mark.reference
N, Q, CLASSES = 23, 4, 3


def data(*, weighted: bool = False, regression: bool = False) -> tuple[Examples, Examples]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N + Q, 4))
    y = np.where(rng.random(N + Q) < 0.7, 0, rng.integers(0, CLASSES, N + Q)).astype(np.int64)
    if regression:
        y = x @ rng.normal(size=(4, 2)) + rng.normal(size=(N + Q, 2))
    x[7], y[7] = x[3], y[3]
    part = np.array(["a", "b"])[np.arange(N + Q) % 2]
    rows = {"input": x, "label": y, "part": part, "id": np.array([f"e{i}" for i in range(N + Q)])}
    train, query = ({k: v[s] for k, v in rows.items()} for s in (slice(0, N), slice(N, None)))
    if weighted:
        train["weight"], query["weight"] = rng.choice([0.0, 0.5, 1.0, 3.0], N), np.ones(Q)
    return read(train, features=["input"]), read(query, features=["input"])


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES, bias=False)).double()


def effective(recipe, moments, engine) -> np.ndarray:
    """Diagonal of the preconditioner, in the order of the parameters."""
    if isinstance(recipe, SGD):
        return np.ones(engine.size)
    second = torch.cat([moments.second[name].flatten() for name in engine.names]).numpy()
    scale = 1 / (np.sqrt(second / (1 - recipe.betas[1] ** moments.step)) + recipe.eps)
    return np.where(second > 0, scale, 0.0)


def by_hand(p: Problem, groups: list[list[int]]) -> np.ndarray:
    """Every segment with ``expm`` and a solve, on the full preconditioned matrix, symmetric or not."""
    spans = p.learner.spans(p.learner.explained(p.train, p.seed), p.train)
    engine = TorchGradients(p.learner, spans[-1].fitted, dtype=torch.float64)
    carried = engine.dense(p.query, "measurement")
    if not p.learner.measurement.lower_is_better:
        carried = -carried
    weights, scores = p.train.weights(), np.zeros((len(p.train), len(p.query)))
    for group in reversed(groups):
        part = [spans[k] for k in group]
        recipe, rows = part[0].recipe, part[0].rows
        examples, count = p.train.take(rows), len(rows)
        points = [TorchGradients(p.learner, s.fitted, dtype=torch.float64) for s in part]
        inside = 0.0 if isinstance(recipe, AdamW) else recipe.weight_decay
        outside = recipe.weight_decay if isinstance(recipe, AdamW) else 0.0
        hessians = [gauss_newton(p.learner, s.fitted, examples, examples.weights()) / count for s in part]
        hessian = np.mean(hessians, 0) + inside * np.eye(engine.size)
        diagonals = [effective(recipe, s.fitted.moments, e) for s, e in zip(part, points, strict=True)]
        diagonal = np.mean(diagonals, 0)
        tau = sum(s.learning_rate for s in part)
        if isinstance(recipe, SGD):
            tau /= 1 - recipe.momentum
        matrix = diagonal[:, None] * hessian + outside * np.eye(engine.size)
        gradients = np.mean([e.dense(examples) for e in points], 0)
        # (1 - exp(-tau M)) / M P g, by the integral's power series folded into one exponential
        size = engine.size
        augmented = np.zeros((2 * size, 2 * size))
        augmented[:size, :size], augmented[:size, size:] = -tau * matrix, tau * np.eye(size)
        whole = scipy.linalg.expm(augmented)
        decayed, response = whole[:size, :size], whole[:size, size:]
        scores[rows] += (gradients * diagonal) @ response.T @ carried.T / count
        carried = carried @ decayed
    return scores * weights[:, None]


RECIPES = {
    "sgd": SGD(lr=0.3, epochs=4, batch_size=8, weight_decay=0.02, checkpoints=4),
    "momentum": SGD(lr=0.1, momentum=0.9, epochs=4, batch_size=8, checkpoints=4, schedule="cosine"),
    "adam": Adam(lr=0.02, epochs=4, batch_size=8, weight_decay=0.05, checkpoints=4),
    "adamw": AdamW(lr=0.02, epochs=4, batch_size=8, weight_decay=0.3, checkpoints=4),
    "stages": Stages((
        AdamW(lr=0.02, epochs=2, batch_size=8, checkpoints=2),
        Stage(SGD(lr=0.3, epochs=2, batch_size=4, weight_decay=0.1, checkpoints=2), column="part", values=("b",)),
    )),
}  # fmt: skip


@pytest.mark.parametrize("measurement", ["loss", "margin"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_segments_are_matrix_exponentials(name: str, weighted: bool, measurement: str) -> None:
    learner = Torch(network(), recipe=RECIPES[name], measurement=measurement)
    assert isinstance(learner, HasSpans)
    p = Problem(learner, *data(weighted=weighted), seed=1)
    per_stage = 1 if name == "stages" else 2
    expected = by_hand(p, [[0, 1], [2, 3]])
    found = SOURCE(segments=per_stage, curvature="exact")(p)
    np.testing.assert_allclose(found.values, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
    assert [s["states"] for s in found.provenance.resolved["segments"]] == [2, 2]


def kronecker_by_hand(p: Problem) -> np.ndarray:
    """One segment, layer by layer: bases of preconditioned pseudo-gradients, corrected eigenvalues."""
    [*_, last] = spans = p.learner.spans(p.learner.explained(p.train, p.seed), p.train)
    recipe, tau = last.recipe, sum(s.learning_rate for s in spans)
    engines = [TorchGradients(p.learner, s.fitted) for s in spans]
    roots = np.sqrt(
        np.mean([effective(recipe, s.fitted.moments, e) for s, e in zip(spans, engines, strict=True)], 0)
    )
    pseudo, weights = [], p.train.weights()[last.rows]
    for span in spans:
        model = p.learner.load(span.fitted)
        for i, batch in enumerate(p.learner.batches(p.train.take(last.rows), 1)):
            outputs = model(batch["input"])
            factor = p.learner.output_hessian_factor(outputs.detach(), batch)[0]
            for r in range(factor.shape[1]):
                grads = torch.autograd.grad(
                    outputs[0] @ factor[:, r], list(model.parameters()), retain_graph=True
                )
                row = torch.cat([g.flatten() for g in grads]).detach().numpy()
                pseudo.append(np.sqrt(weights[i]) * roots * row)
    total = len(spans) * len(last.rows)
    gradients = np.mean([e.dense(p.train.take(last.rows)) for e in engines], 0) * roots
    queries, scores = (
        engines[-1].dense(p.query, "measurement") * roots,
        np.zeros((len(p.train), len(p.query))),
    )
    root_matrices = layers(roots[None])
    for pseudos, g, q, root in zip(
        layers(np.array(pseudo)), layers(gradients), layers(queries), root_matrices, strict=True
    ):
        left = np.linalg.eigh(np.einsum("brc,bsc->rs", pseudos, pseudos))[1]
        right = np.linalg.eigh(np.einsum("brc,brd->cd", pseudos, pseudos))[1]
        values = ((left.T @ pseudos @ right) ** 2).sum(0) / total
        if isinstance(recipe, Adam):
            values += recipe.weight_decay * (left.T**2) @ root[0] ** 2 @ (right**2)
        else:
            values += recipe.weight_decay
        response = (1 - np.exp(-tau * values)) / values
        scores[last.rows] += np.einsum("brc,rc,qrc->bq", left.T @ g @ right, response, left.T @ q @ right)
    return scores * p.train.weights()[:, None] / len(last.rows)


def layers(rows: np.ndarray) -> list[np.ndarray]:
    first = np.concatenate([rows[:, :20].reshape(-1, 5, 4), rows[:, 20:25, None]], 2)
    return [first, rows[:, 25:].reshape(-1, CLASSES, 5)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_preconditioned_factors_layer_by_layer(name: str, weighted: bool) -> None:
    p = Problem(Torch(network(), recipe=RECIPES[name]), *data(weighted=weighted), seed=1)
    found = SOURCE(segments=1, fisher="exact")(p).values
    expected = kronecker_by_hand(p)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("weighted", [False, True])
def test_factors_are_exact_for_one_linear_layer_with_squared_loss(weighted: bool) -> None:
    recipe = SGD(lr=0.1, epochs=6, batch_size=8, weight_decay=0.03, checkpoints=6)
    learner = Torch(nn.Linear(4, 2).double(), loss="mse", recipe=recipe)
    p = Problem(learner, *data(weighted=weighted, regression=True))
    exact = SOURCE(curvature="exact")(p).values
    np.testing.assert_allclose(SOURCE(fisher="exact")(p).values, exact, rtol=1e-7, atol=1e-10)


def quadratic(lr: float, steps: int, checkpoints: int, *, optimal: bool) -> Problem:
    train, query = data(regression=True)
    net = nn.Linear(4, 2).double()
    if optimal:  # where full-batch training stands still, so that every gradient is constant
        x = np.c_[train.columns["input"], np.ones(N)]
        ridge = np.linalg.solve(x.T @ x + N * 0.1 * np.eye(5), x.T @ train.labels())
        with torch.no_grad():
            net.weight.copy_(torch.from_numpy(ridge[:4].T))
            net.bias.copy_(torch.from_numpy(ridge[4]))
    recipe = SGD(lr=lr, epochs=steps, batch_size=None, weight_decay=0.1, checkpoints=checkpoints)
    return Problem(Torch(net, loss="mse", recipe=recipe, start="given"), train, query)


@pytest.mark.parametrize(("segments", "optimal"), [(1, True), (3, True), (40, False)])
def test_source_tends_to_exact_unrolling_on_a_quadratic(segments: int, optimal: bool) -> None:
    # With the same sum of learning rates, the product of (1 - lr H) tends to the exponential as lr goes to 0.
    errors = []
    for halvings in range(3):
        steps, lr = 40 * 2**halvings, 0.1 / 2**halvings
        checkpoints = segments if optimal else steps
        p = quadratic(lr, steps, checkpoints, optimal=optimal)
        found = SOURCE(segments=checkpoints, curvature="exact")(p).values
        exact = Replay(check="none")(p).values
        errors.append(np.abs(found - exact).max() / np.abs(exact).max())
    assert errors[0] < 0.1
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2.0, rtol=0.15)
    assert errors[-1] < 0.03


def test_a_long_training_is_influence() -> None:
    p = quadratic(0.3, 1500, 1, optimal=False)
    influence = GaussNewton(damping=0.0)(p).values
    np.testing.assert_allclose(
        SOURCE(curvature="exact")(p).values, influence, rtol=1e-6, atol=1e-8 * np.abs(influence).max()
    )


def test_stages_count_their_own_examples_and_tend_to_exact_unrolling() -> None:
    train, query = data(regression=True)
    errors = []
    for halvings in range(2):
        steps, lr = 30 * 2**halvings, 0.1 / 2**halvings
        one = SGD(lr=lr, epochs=steps, batch_size=None, weight_decay=0.1, checkpoints=steps)
        stages = Stages((Stage(one, column="part", values=("a",)), Stage(one, column="part", values=("b",))))
        p = Problem(Torch(nn.Linear(4, 2).double(), loss="mse", recipe=stages), train, query)
        found = SOURCE(segments=steps, curvature="exact")(p).values
        exact = Replay(check="none")(p).values
        errors.append(np.abs(found - exact).max() / np.abs(exact).max())
    assert errors[0] < 0.15
    assert 1.6 < errors[0] / errors[1] < 2.4


def test_one_state_is_noted() -> None:
    p = Problem(Torch(network(), recipe=SGD(lr=0.1, epochs=2, batch_size=8)), *data())
    scores = SOURCE()(p)
    assert any("only its last state" in note for note in scores.provenance.notes)
    assert len(scores.provenance.resolved["segments"]) == 1


def test_what_is_refused() -> None:
    trained = Problem(Torch(network(), recipe=RECIPES["sgd"], trained=True), *data())
    with pytest.raises(CapabilityError, match="not known"):
        SOURCE()(trained)
    with pytest.raises(SettingError, match="segments=0"):
        SOURCE(segments=0)(Problem(Torch(network(), recipe=RECIPES["sgd"]), *data()))


def test_tracin_counts_an_example_in_its_own_stages_and_notes_adam() -> None:
    p = Problem(Torch(network(), recipe=RECIPES["stages"]), *data(weighted=True), seed=1)
    spans = p.learner.spans(p.learner.explained(p.train, p.seed), p.train)
    expected = np.zeros((N, Q))
    for span in spans:
        engine = TorchGradients(p.learner, span.fitted)
        products = engine.dense(p.train.take(span.rows)) @ engine.dense(p.query, "measurement").T
        expected[span.rows] += span.learning_rate / len(span.rows) * products
    found = TracIn()(p)
    np.testing.assert_allclose(found.values, expected * p.train.weights()[:, None], rtol=1e-9, atol=1e-13)
    assert any("Adam" in note for note in found.provenance.notes)
    plain = TracIn()(Problem(Torch(network(), recipe=RECIPES["sgd"]), *data()))
    assert not any("Adam;" in note for note in plain.provenance.notes)
