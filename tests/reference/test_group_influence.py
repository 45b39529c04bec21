"""Groups: first order against sums, second order against refits without the group."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from steelyard.data import read
from steelyard.errors import DataError, SettingError
from steelyard.learners import SGD, Sklearn, Torch
from steelyard.problem import Problem
from steelyard.score.gauss_newton import GaussNewton
from steelyard.score.group_influence import GroupInfluence
from steelyard.score.kronecker import EKFAC
from tests.reference.test_influence import gauss_newton_by_hand, network, problem

pytestmark = pytest.mark.reference
COLOURS = np.array(["red", "green", "blue", "red", "red"])


def linear(kind: str) -> Problem:
    """Sixty examples of four unequal sources, six queries; ridge or logistic regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(66, 4))
    source = rng.choice(["a", "b", "c", "d"], 66, p=[0.4, 0.3, 0.2, 0.1])
    x[source == "b"] += 0.7
    y = x @ [1.0, -2.0, 0.5, 0.0] + rng.normal(size=66) + (source == "c")
    estimator = Ridge(alpha=2.0)
    if kind == "logistic":
        y = (y > 0).astype(np.int64)
        estimator = LogisticRegression(C=0.5, tol=1e-12, max_iter=2000)
    columns = {"input": x, "label": y, "source": source, "id": np.array([f"e{i}" for i in range(66)])}
    train = read({name: values[:60] for name, values in columns.items()}, features="input")
    query = read({name: values[60:] for name, values in columns.items()}, features="input")
    return Problem(Sklearn(estimator), train, query)


def refits(p: Problem, groups: list[np.ndarray]) -> np.ndarray:
    """How much worse every query becomes when the model is really fitted without each group."""
    whole = p.learner.measure(p.learner.fit(p.train), p.query)
    rows = []
    for group in groups:
        weights = np.ones(len(p.train))
        weights[group] = 0.0
        rows.append(p.learner.measure(p.learner.fit(p.train, weights), p.query) - whole)
    return np.array(rows)


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_second_order_is_closer_to_removal_than_first(kind: str) -> None:
    p = linear(kind)
    source = np.asarray(p.train.column("source")[:])
    first, second = (GroupInfluence("source", order=order)(p) for order in (1, 2))
    np.testing.assert_array_equal(first.train_ids, list(dict.fromkeys(source.tolist())))
    truth = refits(p, [np.flatnonzero(source == name) for name in first.train_ids])
    # What the expansion is about is the change of the parameters; the measurement's own curvature comes on top.
    errors = [np.abs(found.values - truth).mean() for found in (first, second)]
    assert errors[1] < 0.75 * errors[0]
    assert second.unit == p.learner.measurement.unit


def test_second_order_of_ridge_follows_the_parameters() -> None:
    """For a quadratic loss the remaining error is of third order: it falls with the cube of the group's size."""
    p = linear("ridge")
    errors = []
    for size in (4, 8):
        groups = {"g": [f"e{i}" for i in range(size)]}
        found = GroupInfluence(groups=groups, order=2, damping=0.0)(p)
        fitted = p.learner.explained(p.train)
        hessian = p.learner.hessian(fitted, p.train)
        weights = np.ones(60)
        weights[:size] = 0.0
        rest = p.learner.hessian(fitted, p.train, weights)
        from steelyard.collect.gradients import dense_gradients, open_gradients
        from steelyard.run import in_memory

        engine = open_gradients(p, in_memory(), method="t", instead="t")
        g, q = (
            dense_gradients(engine, p.train, "loss")[:size].sum(0),
            dense_gradients(engine, p.query, "measurement"),
        )
        truth = q @ np.linalg.solve(rest, g)
        errors.append(np.abs(found.values[0] - truth).max())
        assert np.abs(found.values[0] - truth).max() < np.abs(q @ np.linalg.solve(hessian, g) - truth).max()


@pytest.mark.parametrize("curvature", ["exact", "ekfac"])
def test_first_order_is_the_sum_of_the_members(curvature: str) -> None:
    p = problem(network(), weighted=True, decay=0.01)
    colours = np.resize(COLOURS, len(p.train))
    p = Problem(p.learner, p.train.with_column("colour", colours, "c"), p.query)
    single = (GaussNewton(0.02) if curvature == "exact" else EKFAC(0.02))(p).values
    found = GroupInfluence("colour", curvature=curvature, damping=0.02)(p)
    expected = np.stack([single[colours == name].sum(0) for name in found.train_ids])
    np.testing.assert_allclose(found.values, expected, rtol=1e-7, atol=1e-10)
    assert list(found.train_ids) == ["red", "green", "blue"]


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_second_order_of_a_network_by_hand(decay: float) -> None:
    p = problem(network(), weighted=True, decay=decay)
    colours = np.resize(COLOURS, len(p.train))
    grouped = Problem(p.learner, p.train.with_column("colour", colours, "c"), p.query)
    found = GroupInfluence("colour", order=2, curvature="exact", damping=0.02)(grouped)
    from steelyard.gradients.engine import TorchGradients

    engine = TorchGradients(p.learner, p.learner.explained(p.train))
    theta = np.concatenate([v.detach().numpy().ravel() for v in engine.model.parameters()])
    g, q, weights = engine.dense(p.train), engine.dense(p.query, "measurement"), p.train.weights()
    present = (weights > 0).sum()
    whole = gauss_newton_by_hand(p, decay) + present * 0.02 * np.eye(40)
    for name, row in zip(found.train_ids, found.values, strict=True):
        members = np.flatnonzero((colours == name) & (weights > 0))
        part = Problem(p.learner, p.train.take(members), p.query)
        group = gauss_newton_by_hand(part, decay) + len(members) * 0.02 * np.eye(40)
        total = (weights[members, None] * g[members]).sum(0) + len(members) * decay * theta
        share = len(members) / present
        moved = np.linalg.solve(whole, total)
        change = (1 - 2 * share) / (1 - share) ** 2 * moved
        change = change + np.linalg.solve(whole, group @ moved) / (1 - share) ** 2
        np.testing.assert_allclose(row, q @ change, rtol=1e-7, atol=1e-10)


def test_ekfac_second_order_equals_exact_for_one_linear_layer() -> None:
    p = problem(network(2, deep=False), decay=0.03, weighted=True, loss="mse")
    colours = np.resize(COLOURS, len(p.train))
    p = Problem(p.learner, p.train.with_column("colour", colours, "c"), p.query)
    exact, kronecker = (
        GroupInfluence("colour", order=2, curvature=kind, damping=0.05)(p).values
        for kind in ("exact", "ekfac")
    )
    np.testing.assert_allclose(kronecker, exact, rtol=1e-6, atol=1e-10)


def test_a_group_like_the_rest_is_exact() -> None:
    """Half of a training set that holds everything twice: without it nothing changes, which first order misses."""
    rng = np.random.default_rng(1)
    x = np.tile(rng.normal(size=(12, 3)), (2, 1))
    y = np.tile(rng.integers(0, 2, 12), 2)
    half = np.repeat(["one", "two"], 12)
    train = read(
        {"input": x, "label": y, "half": half, "id": np.array([f"e{i}" for i in range(24)])}, features="input"
    )
    query = read({"input": x[:3] + 0.1, "label": y[:3], "id": np.array(["a", "b", "c"])}, features="input")
    recipe = SGD(lr=0.5, epochs=400, batch_size=24, weight_decay=0.1)
    p = Problem(Torch(nn.Linear(3, 2).double(), recipe=recipe), train, query)
    second = GroupInfluence("half", order=2, curvature="exact", damping=0.0)(p).values
    assert np.abs(second).max() < 1e-6


def test_groups_that_make_no_sense_are_refused() -> None:
    p = problem(network())
    with pytest.raises(DataError, match="no column 'colour'"):
        GroupInfluence("colour")(p)
    with pytest.raises(DataError, match="whole training set"):
        GroupInfluence(groups={"all": list(p.train.ids)}, order=2)(p)
    third = GroupInfluence()
    object.__setattr__(third, "order", 3)  # what runtime type checks would refuse before the method can
    with pytest.raises(SettingError, match="order=3"):
        third(p)
    with pytest.raises(SettingError, match="empty"):
        GroupInfluence(groups={})(p)
