"""tK-FAC and Shampoo against loops over examples, positions and outputs; damping by held-out likelihood."""

import numpy as np
import pytest
import torch
from torch import nn

from steelyard.collect import curvature
from steelyard.collect.curvature import hold_out, kronecker_arrays, kronecker_metric
from steelyard.collect.gradients import open_gradients
from steelyard.data import read
from steelyard.errors import SettingError
from steelyard.gradients import factorisations
from steelyard.learners import SGD, Torch
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run
from steelyard.score.kronecker import EKFAC, KFAC, TKFAC, Shampoo
from tests.reference.test_influence import CLASSES, dense, network, problem, split

pytestmark = pytest.mark.reference


class Sequence(nn.Module):
    """Two linear layers that see four positions per example, averaged in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 4), nn.Linear(4, CLASSES, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x))).mean(1)


def sequences(*, weighted: bool) -> Problem:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(20, 4, 2)), rng.integers(0, CLASSES, 20)
    train = {"input": x[:16], "label": y[:16], "id": np.array([f"t{i}" for i in range(16)])}
    query = {"input": x[16:], "label": y[16:], "id": np.array([f"q{i}" for i in range(4)])}
    if weighted:
        train["weight"] = rng.choice([0.0, 0.5, 2.0], 16)
        query["weight"] = np.ones(4)
    torch.manual_seed(2)
    recipe = SGD(lr=0.1, epochs=1)
    return Problem(Torch(Sequence().double(), recipe=recipe, trained=True), read(train), read(query))


def factors(p: Problem) -> list[list[tuple[float, np.ndarray, list[np.ndarray]]]]:
    """Per layer and example: weight, inputs ``[position, in]``, output gradients ``[position, out]`` per output."""
    model = p.learner.load(p.learner.explained(p.train))
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    found = [[] for _ in layers]
    for i, batch in enumerate(p.learner.batches(p.train, 1)):
        seen = []
        hooks = [
            layer.register_forward_hook(lambda _, a, o, seen=seen: seen.append((a[0], o))) for layer in layers
        ]
        logits = model(batch["input"])
        for hook in hooks:
            hook.remove()
        prob = logits.detach().softmax(1)[0]
        root = torch.diag(prob.sqrt()) - torch.outer(prob, prob.sqrt())
        for index, (layer, (inputs, output)) in enumerate(zip(layers, seen, strict=True)):
            a = inputs.detach().reshape(-1, inputs.shape[-1]).numpy()
            if layer.bias is not None:
                a = np.concatenate([a, np.ones((len(a), 1))], axis=1)
            grads = [
                torch.autograd.grad((logits[0] * root[:, r]).sum(), output, retain_graph=True)[0]
                for r in range(CLASSES)
            ]
            rows = [g.reshape(-1, g.shape[-1]).numpy() for g in grads]
            found[index].append((p.train.weights()[i], a, rows))
    return found


def by_hand(p: Problem, kind: str, damping: float, widest: int = 10_000) -> np.ndarray:
    """Scores with dense matrices: the Kronecker product of each layer is formed and inverted.

    Sides wider than ``widest`` keep their diagonal alone.
    """
    model = p.learner.load(p.learner.explained(p.train))
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    g, q = split(p, dense(p, p.train, "loss"), layers), split(p, dense(p, p.query, "loss"), layers)
    weights = p.train.weights()
    present = (weights > 0).sum()
    scores = np.zeros((len(p.train), len(p.query)))
    for index, examples in enumerate(factors(p)):
        left = right = trace = 0.0
        for w, a, grads in examples:
            for rows in grads:
                if kind == "tkfac":
                    for x, y in zip(a, rows, strict=True):
                        left = left + w * (x @ x) * np.outer(y, y)
                        right = right + w * (y @ y) * np.outer(x, x)
                        trace += w * (x @ x) * (y @ y)
                else:
                    matrix = rows.T @ a
                    left, right = left + w * matrix @ matrix.T, right + w * matrix.T @ matrix
                    trace += w * np.square(matrix).sum()
        left, right, trace = left / present, right / present, trace / present
        left, right = (np.diag(np.diag(m)) if len(m) > widest else m for m in (left, right))
        if kind == "root":
            curvature = np.kron(power(left, 0.5), power(right, 0.5))
        elif kind == "corrected":
            u, v = np.linalg.eigh(left)[1], np.linalg.eigh(right)[1]
            values = sum(w * np.square(u.T @ (rows.T @ a) @ v) for w, a, grads in examples for rows in grads)
            basis = np.kron(u, v)
            curvature = (basis * (values / present).ravel()) @ basis.T
        else:
            curvature = np.kron(left, right) / trace
        solved = np.linalg.solve(
            present * (curvature + damping * np.eye(len(curvature))), q[index].reshape(len(q[index]), -1).T
        )
        scores += weights[:, None] * (g[index].reshape(len(weights), -1) @ solved)
    return scores


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values.clip(0) ** exponent) @ vectors.T


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("one_position", [False, True])
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("tkfac", TKFAC(0.01, "exact")),
        ("product", Shampoo(0.01, "exact", "product")),
        ("root", Shampoo(0.01, "exact", "root")),
        ("corrected", Shampoo(0.01, "exact", "corrected")),
    ],
)
def test_equals_its_definition(kind: str, method, one_position: bool, weighted: bool) -> None:
    p = problem(network(), weighted=weighted) if one_position else sequences(weighted=weighted)
    expected = by_hand(p, kind, 0.01)
    np.testing.assert_allclose(method(p).values, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("one_position", [False, True])
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("tkfac", TKFAC(0.01, "exact")),
        ("product", Shampoo(0.01, "exact", "product")),
        ("corrected", Shampoo(0.01, "exact", "corrected")),
    ],
)
def test_a_side_too_wide_keeps_its_diagonal_and_the_record_says_so(
    monkeypatch, kind: str, method, one_position: bool
) -> None:
    for module in (factorisations, curvature):
        monkeypatch.setattr(module, "LARGEST_SIDE", 3)
    p = problem(network(), weighted=True) if one_position else sequences(weighted=True)
    scores = method(p)
    np.testing.assert_allclose(scores.values, by_hand(p, kind, 0.01, widest=3), rtol=1e-6, atol=1e-10)
    assert scores.provenance.resolved["diagonal_sides"]
    monkeypatch.undo()
    assert not np.allclose(method(p).values, scores.values)


def test_factorisations_keep_the_trace_of_what_they_approximate() -> None:
    """Shampoo that of whole gradients, tK-FAC that of positions taken for examples, K-FAC neither."""
    p = sequences(weighted=True)
    fitted = open_gradients(p, in_memory(), method="t", instead="t")
    sums = {
        kind: [
            float(block.values.sum())
            for block in kronecker_arrays(p, fitted, in_memory(), kind=kind, fisher="exact").blocks.values()
        ]
        for kind in ("kfac", "tkfac", "shampoo", "eshampoo", "ekfac")
    }
    present = (p.train.weights() > 0).sum()
    whole, apart = [], []
    for examples in factors(p):
        whole.append(sum(w * np.square(r.T @ a).sum() for w, a, grads in examples for r in grads) / present)
        lengths = [w * np.square(a).sum(1) @ np.square(r).sum(1) for w, a, grads in examples for r in grads]
        apart.append(sum(lengths) / present)
    for kind in ("shampoo", "eshampoo", "ekfac"):
        np.testing.assert_allclose(sums[kind], whole, rtol=1e-9)
    np.testing.assert_allclose(sums["tkfac"], apart, rtol=1e-9)
    assert not np.allclose(sums["kfac"], apart, rtol=1e-6)


def test_embeddings_have_a_diagonal_side() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 7, (24, 4)), rng.integers(0, 2, 24)
    ids = np.array([f"e{i}" for i in range(24)])
    p = Problem(
        Torch(net, trained=True),
        read({"input": x[:20], "label": y[:20], "id": ids[:20]}),
        read({"input": x[20:], "label": y[20:], "id": ids[20:]}),
    )
    for method in (TKFAC(), Shampoo(), Shampoo(eigenvalues="product"), KFAC(), EKFAC()):
        assert np.isfinite(method(p).values).all()


def test_another_point_and_other_examples_are_kept_apart(tmp_path) -> None:
    p = problem(network())
    with open_run(tmp_path / "run", {"command": "t"}, show="quiet") as run:
        fitted = open_gradients(p, run, method="t", instead="t")
        whole = kronecker_arrays(p, fitted, run, kind="ekfac").blocks["0"].values
        half = p.train.take(slice(0, 10))
        part = kronecker_arrays(p, fitted, run, kind="ekfac", point="half", examples=half).blocks["0"].values
        again = kronecker_arrays(p, fitted, run, kind="ekfac").blocks["0"].values
    assert not torch.allclose(whole, part)
    torch.testing.assert_close(whole, again)


def wide() -> Problem:
    """More inputs than examples, so that held-out gradients reach where the curvature has seen nothing."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(34, 30)), rng.normal(size=(34, 2))
    ids = np.array([f"e{i}" for i in range(34)])
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(30, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    return Problem(
        Torch(net, loss="mse", trained=True),
        read({"input": x[:30], "label": y[:30], "id": ids[:30]}),
        read({"input": x[30:], "label": y[30:], "id": ids[30:]}),
    )


@pytest.mark.parametrize("kind", ["kfac", "ekfac", "eshampoo"])
def test_held_out_damping_is_the_likeliest_by_hand(kind: str) -> None:
    from steelyard.gradients.fisher import fisher_gradients

    p = wide()
    fitted = open_gradients(p, in_memory(), method="t", instead="t")
    found = kronecker_metric(p, fitted, in_memory(), kind=kind, fisher="exact", damping="heldout")
    rest, held = hold_out(p.train)
    assert len(held) == 6
    assert not set(rest) & set(held)
    block = kronecker_arrays(
        p, fitted, in_memory(), kind=kind, fisher="exact", point="x", examples=p.train.take(rest)
    ).blocks["0"]
    basis = np.kron(block.left.numpy(), block.right.numpy())
    curvature = (basis * block.values.numpy().ravel()) @ basis.T
    moments = 0.0
    for batch in fisher_gradients(fitted.gradients, p.learner, p.train.take(held), kind="exact"):
        rows = batch.factors["0"].full().flatten(1).numpy()
        moments = moments + rows.T @ rows / len(held)

    def likelihood(damping: float) -> float:
        damped = curvature + damping * np.eye(len(curvature))
        return -0.5 * (np.linalg.slogdet(damped)[1] + np.trace(np.linalg.solve(damped, moments)))

    chosen = found.metric.damping["0"]
    assert 1e-5 * block.values.mean() < chosen < 99 * block.values.mean()  # not an end of the grid
    assert likelihood(chosen) >= max(likelihood(chosen * step) for step in (0.25, 0.5, 2.0, 4.0))
    curve = found.resolved["damping_curve"]
    assert len(curve["multiple_of_mean_eigenvalue"]) == len(curve["log_likelihood_per_direction"])
    assert curve["log_likelihood_of_choice"] >= max(curve["log_likelihood_per_direction"]) - 1e-9


def test_held_out_damping_does_not_look_at_queries() -> None:
    p = sequences(weighted=False)
    other = Problem(p.learner, p.train, p.query.take(slice(0, 1)))
    first, second = (EKFAC(damping="heldout")(asked).provenance.resolved["damping"] for asked in (p, other))
    assert first == second


def test_too_few_to_hold_out() -> None:
    p = sequences(weighted=False)
    few = Problem(p.learner, p.train.take(slice(0, 8)), p.query)
    with pytest.raises(SettingError, match="holds out a fifth"):
        EKFAC(damping="heldout")(few)
