"""Representer points against their definitions: sums that give predictions, and derivatives of the losses."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from torch import nn

import steelyard as sy
from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.learners import SGD, Sklearn, Torch

pytestmark = [pytest.mark.reference, pytest.mark.systems]


def tables(classes: int = 3, count: int = 50, queries: int = 5):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(count + queries, 4))
    y = np.digitize(x[:, 0] + 0.5 * rng.normal(size=len(x)), np.linspace(-0.7, 0.7, classes - 1))
    return (x[:count], y[:count]), (x[count:], y[count:])


def network(train, classes: int = 3) -> Torch:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, classes)).double()
    return Torch(net, recipe=SGD(lr=0.3, epochs=20, batch_size=16))


def logits_of(learner: Torch, problem: sy.Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    fitted = learner.explained(problem.train)
    model = learner.load(fitted)
    with torch.no_grad():
        sides = [
            model[1](model[0](torch.tensor(np.asarray(d.input()[:])))).numpy()
            for d in (problem.train, problem.query)
        ]
    return *(np.column_stack([side, np.ones(len(side))]) for side in sides), np.column_stack(
        [model[2].weight.detach().numpy(), model[2].bias.detach().numpy()]
    )


@pytest.mark.parametrize("asked", ["label", "predicted"])
def test_contributions_to_a_network_sum_to_the_refitted_pre_activation(asked: str) -> None:
    train, query = tables()
    learner = network(train)
    problem = sy.Problem(learner, train=train, query=query)
    scores = sy.score.RPS(penalty=0.01, asked=asked)(problem)
    f, fq, given = logits_of(learner, problem)
    targets = softmax(f @ given.T, axis=1)

    def objective(flat: np.ndarray) -> float:
        w = flat.reshape(given.shape)
        logs = np.log(softmax(f @ w.T, axis=1))
        return -(targets * logs).sum(axis=1).mean() + 0.01 * (w**2).sum()

    best = minimize(objective, given.ravel(), options={"gtol": 1e-9}, method="L-BFGS-B", tol=1e-15).x.reshape(
        given.shape
    )
    outputs = fq @ best.T
    chosen = problem.query.labels() if asked == "label" else (fq @ given.T).argmax(axis=1)
    np.testing.assert_allclose(scores.values.sum(axis=0), outputs[np.arange(5), chosen], atol=1e-3)
    assert scores.provenance.resolved["largest_gap_between_sum_and_prediction"] < 1e-6
    # One term by its definition: minus the loss's derivative over 2 n penalty, times the similarity of features.
    alpha = -(softmax(f @ best.T, axis=1) - targets) / (2 * 0.01 * len(f))
    np.testing.assert_allclose(scores.values, (alpha @ np.eye(3)[chosen].T) * (f @ fq.T), atol=1e-3)
    assert (scores.unit, scores.measurement.name) == ("logits", "pre-activation")


@pytest.mark.parametrize("classes", [2, 3])
def test_contributions_to_logistic_regression_sum_to_its_decision(classes: int) -> None:
    train, query = tables(classes)
    model = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000)
    problem = sy.Problem(Sklearn(model), train=train, query=query)
    values = sy.score.RPS()(problem).values
    fitted = model.fit(*train)
    decision = fitted.decision_function(query[0]) - fitted.intercept_
    wanted = decision * np.where(query[1] == 1, 1, -1) if classes == 2 else decision[np.arange(5), query[1]]
    np.testing.assert_allclose(values.sum(axis=0), wanted, atol=1e-6)


def test_a_regressor_and_a_hinge_are_decomposed_too() -> None:
    train, query = tables()
    train, query = (train[0], train[0][:, 1] * 2.0), (query[0], query[0][:, 1] * 2.0)
    ridge = Ridge(alpha=0.7)
    scores = sy.score.RPS()(sy.Problem(Sklearn(ridge), train=train, query=query))
    fitted = ridge.fit(*train)
    np.testing.assert_allclose(
        scores.values.sum(axis=0), fitted.predict(query[0]) - fitted.intercept_, atol=1e-6
    )
    assert scores.unit == "target units"
    train, query = tables(2)
    hinge = LinearSVC(C=0.3, tol=1e-10, max_iter=100_000)
    values = sy.score.RPS()(sy.Problem(Sklearn(hinge), train=train, query=query)).values
    decision = hinge.fit(*train).decision_function(query[0])
    np.testing.assert_allclose(values.sum(axis=0), decision * np.where(query[1] == 1, 1, -1), atol=1e-5)


def test_an_example_of_weight_two_counts_like_two() -> None:
    train, query = tables()
    one = sy.data.read({"input": train[0], "label": train[1]})
    weights = np.ones(len(one))
    weights[3] = 2.0
    twice = sy.data.read(
        {"input": np.vstack([train[0], train[0][3:4]]), "label": np.append(train[1], train[1][3])}
    )
    model = Sklearn(LogisticRegression(C=0.5, tol=1e-10, max_iter=5000))
    a = sy.score.RPS()(sy.Problem(model, train=one.with_column("weight", weights, "w"), query=query)).values
    b = sy.score.RPS()(sy.Problem(model, train=twice, query=query)).values
    np.testing.assert_allclose(a[3], b[3] + b[-1], atol=1e-5)


def test_local_jacobian_expansion_is_a_newton_step_example_by_example() -> None:
    train, query = tables()
    learner = network(train)
    problem = sy.Problem(learner, train=train, query=query)
    scores = sy.score.RPSLJE(step=0.05, damping=0.002)(problem)
    f, fq, given = logits_of(learner, problem)
    onehot, n = np.eye(3)[train[1]], len(f)

    def gradient(w: np.ndarray) -> np.ndarray:
        return ((softmax(f @ w.T, axis=1) - onehot).T @ f / n).ravel()

    away = given + 0.05 * gradient(given).reshape(given.shape)
    eps, size = 1e-6, given.size
    curvature = np.array(
        [
            (gradient(away + eps * e.reshape(given.shape)) - gradient(away - eps * e.reshape(given.shape)))
            / (2 * eps)
            for e in np.eye(size)
        ]
    )
    # A shift of all logits is flat; its curvature changes nothing, as no gradient lies in it.
    inverse = np.linalg.inv(curvature + 0.002 * np.eye(size))
    slopes = softmax(f @ away.T, axis=1) - onehot
    expected = np.empty((n, 5))
    for i in range(n):
        part = (away.ravel() - inverse @ np.outer(slopes[i], f[i]).ravel()) / n
        expected[i] = [part.reshape(given.shape)[label] @ fq[q] for q, label in enumerate(query[1])]
    mean = expected.mean(axis=0)
    np.testing.assert_allclose(
        scores.values - scores.values.mean(axis=0), expected - mean, rtol=2e-2, atol=1e-4
    )
    np.testing.assert_allclose(scores.values.sum(axis=0), expected.sum(axis=0), rtol=2e-2, atol=2e-2)


def test_expansion_of_a_penalised_model_lands_on_its_decision() -> None:
    train, query = tables(3)
    model = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000)
    scores = sy.score.RPSLJE(step=0.001)(sy.Problem(Sklearn(model), train=train, query=query))
    decision = model.fit(*train).decision_function(query[0])[np.arange(5), query[1]]
    np.testing.assert_allclose(scores.values.sum(axis=0), decision, atol=1e-4)
    # Differences between examples are first-order effects of leaving them out, on the pre-activation.
    problem = sy.Problem(Sklearn(model), train=train, query=query)
    found = scores.values - scores.values.mean(axis=0)
    truth = np.empty_like(found)
    for i in range(len(found)):
        less = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(
            np.delete(train[0], i, 0), np.delete(train[1], i)
        )
        truth[i] = decision - less.decision_function(query[0])[np.arange(5), query[1]]
    assert np.corrcoef(found.ravel(), (truth - truth.mean(axis=0)).ravel())[0, 1] > 0.98
    assert problem.query.labels().shape == (5,)


def test_what_cannot_be_decomposed_says_so() -> None:
    train, query = tables()
    with pytest.raises(CapabilityError, match="none"):
        sy.score.RPS()(sy.Problem(Sklearn(LinearRegression()), train=train, query=query))
    twist = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1)).double()
    with pytest.raises(CapabilityError, match="nn.Linear"):
        sy.score.RPS()(sy.Problem(Torch(twist, recipe=SGD(lr=0.1, epochs=1)), train=train, query=query))
    with pytest.raises(SettingError, match="penalty"):
        sy.score.RPS(penalty=0.0)
    with pytest.raises(DataError):
        sy.score.RPS()(sy.Problem(Sklearn(LogisticRegression()), train=train, query=(query[0], query[1] + 7)))


def test_opponents_of_their_own_label_are_the_wrong_labels_of_digits() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = (x[:600] / 16).astype(np.float32), y[:600].astype(np.int64)
    wrong = np.random.default_rng(0).choice(500, 50, replace=False)
    y[wrong] = (y[wrong] + 1) % 10
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    problem = sy.Problem(
        Torch(net, recipe=SGD(lr=0.1, momentum=0.9, epochs=8)),
        train=(x[:500], y[:500]),
        query=(x[500:], y[500:]),
    )
    ids = problem.train.ids[wrong]
    for method in (sy.score.RPS(targets="labels"), sy.score.RPSLJE()):
        assert sy.verify.mislabel_auc(method(problem), ids).estimate > 0.6
