"""Every method on leaves against a brute-force twin, on trees whose splits are given."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from steelyard import score
from steelyard.collect.leaf_refits import refitted
from steelyard.collect.leaves import leaves_of
from steelyard.errors import CapabilityError
from steelyard.problem import Problem
from steelyard.run import in_memory
from steelyard.trees.forest import raw_scores
from tests.planted_trees import Planted, gain, planted_problem
from tests.problems import inputs

pytestmark = pytest.mark.trees

LEARNERS = {
    "squared": Planted(),
    "logistic": Planted("logistic"),
    "softmax as LightGBM": Planted("softmax", 3, scale=1.5),
    "softmax with a matrix": Planted("softmax", 3, rule="newton matrix"),
    "poisson": Planted("poisson", rate=0.2),
    "gradient": Planted("logistic", rule="gradient"),
    "l1": Planted("squared", l1=0.8),
    "limited": Planted("logistic", limit=0.9),
    "unequal leaves": Planted("logistic", skew=1.0, l2=1.0),
    "higher is better": gain(Planted("logistic")),
}
PLAIN = {"logistic", "gradient", "unequal leaves"}  # the others have weights, a 0 among them
CASES = [(name, name not in PLAIN) for name in LEARNERS]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}{' weighted' * case[1]}")
def problem(request) -> Problem:
    name, weighted = request.param
    return planted_problem(LEARNERS[name], weighted=weighted)


def sign(problem: Problem) -> float:
    return 1.0 if problem.learner.measurement.lower_is_better else -1.0


def by_weight(problem: Problem, row: int, ask) -> np.ndarray:
    """Derivative of what a model is asked by a row's weight, by central differences."""
    found = []
    for step in (1e-5, -1e-5):
        weights = problem.train.weights().copy()
        weights[row] += step
        train = problem.train.with_column("weight", weights, f"{row}{step}")
        found.append(ask(problem.learner.fit(train)))
    return (found[0] - found[1]) / 2e-5


def test_leaf_refit_is_leave_one_out_where_splits_are_given(problem: Problem) -> None:
    found, expected = score.LeafRefit()(problem), score.LeaveOneOut()(problem)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9, atol=1e-10)
    assert np.abs(expected.values).max() > 1e-3


def test_leaf_influence_is_the_derivative_of_the_refit(problem: Problem) -> None:
    found = score.LeafInfluence()(problem).values
    weights = problem.train.weights()
    for row in range(1, len(weights), 4):
        if weights[row] == 0:
            assert not found[row].any()
            continue
        slope = by_weight(problem, row, lambda fitted: problem.learner.measure(fitted, problem.query))
        expected = -sign(problem) * weights[row] * slope
        np.testing.assert_allclose(found[row], expected, rtol=2e-5, atol=2e-7 * np.abs(found).max() + 1e-9)


def frozen_step(problem: Problem, tree: int, row: int) -> np.ndarray:
    """Derivative of one tree's leaf values by a row's weight, with the raw scores before it held fixed."""
    learner = problem.learner
    forest = learner.fit(problem.train).forest
    numbers, labels = learner.leaves(learner.fit(problem.train), problem.train), learner.labels(problem.train)
    raw = np.tile(forest.base, (len(labels), 1))
    for t in range(forest.trees):
        if forest.round[t] < forest.round[tree]:
            raw[:, forest.output[t]] += forest.values[4 * t + numbers[:, t]]
    found = []
    for step in (1e-5, -1e-5):
        weights = problem.train.weights().copy()
        weights[row] += step
        found.append(learner.rate * learner.stepped(tree, [], numbers, (raw, labels, weights)))
    return (found[0] - found[1]) / 2e-5


def slopes_before(problem: Problem, tree: int, data) -> np.ndarray:
    learner, fitted = problem.learner, problem.learner.fit(problem.train)
    forest, numbers = fitted.forest, learner.leaves(fitted, data)
    raw = np.tile(forest.base, (len(data), 1))
    for t in range(forest.trees):
        if forest.round[t] < forest.round[tree]:
            raw[:, forest.output[t]] += forest.values[4 * t + numbers[:, t]]
    return raw


def test_boostin_is_the_sum_of_slopes_times_leaf_derivatives(problem: Problem) -> None:
    by_count = 2 if problem.learner.kind == "poisson" else 1 if problem.learner.l1 else 0
    learner, fitted = problem.learner, problem.learner.fit(problem.train)
    train, query = learner.leaves(fitted, problem.train), learner.leaves(fitted, problem.query)
    weights = problem.train.weights()
    found = score.BoostIn(by_count=by_count)(problem).values
    for row in (3, 5, 20):
        expected = np.zeros(len(problem.query))
        for tree in range(fitted.forest.trees):
            raw = slopes_before(problem, tree, problem.query)
            slope = learner.sensitivity(fitted, problem.query, raw)[:, fitted.forest.output[tree]]
            if weights[row] > 0:
                moved = frozen_step(problem, tree, row)
                count = ((train[:, tree] == train[row, tree]) & (weights > 0)).sum()
                expected -= sign(problem) * weights[row] * slope * moved[query[:, tree]] / count**by_count
        np.testing.assert_allclose(found[row], expected, rtol=2e-4, atol=2e-6 * np.abs(found).max())


def test_boostin_of_itself_is_that_of_a_query_equal_to_the_example() -> None:
    problem = planted_problem(Planted("logistic"))
    own = score.BoostIn(of="self")(problem)
    pairs = score.BoostIn()(Problem(problem.learner, problem.train, problem.train)).values
    np.testing.assert_allclose(own.values[:, 0], np.diag(pairs), rtol=1e-5)
    assert own.suspect == "high"


@pytest.mark.parametrize("method", [score.LeafInfluence, score.LeafInfSP, score.LeafRefit, score.TREX])
@pytest.mark.parametrize("name", ["squared", "softmax with a matrix", "higher is better"])
def test_self_influence_is_that_of_queries_equal_to_the_examples(name: str, method, monkeypatch) -> None:
    problem = planted_problem(LEARNERS[name], weighted=True)
    asked = Problem(problem.learner, problem.train, problem.train)
    expected = np.diagonal(method()(asked).values)
    assert np.ptp(expected) > 1e-6
    np.testing.assert_allclose(method(of="self")(problem).values[:, 0], expected, rtol=1e-6, atol=1e-9)
    monkeypatch.setattr(f"{method.__module__}.OWN_AT_ONCE", 7)
    found = method(of="self")(problem)
    np.testing.assert_allclose(found.values[:, 0], expected, rtol=1e-6, atol=1e-9)
    assert (found.axis, found.suspect) == ("example", "high")


def test_a_single_point_moves_only_its_own_raw_score(problem: Problem) -> None:
    learner, fitted = problem.learner, problem.learner.fit(problem.train)
    forest = fitted.forest
    train, query = learner.leaves(fitted, problem.train), learner.leaves(fitted, problem.query)
    weights = problem.train.weights()
    final = learner.sensitivity(fitted, problem.query, raw_scores(forest, query))
    found = score.LeafInfSP()(problem).values
    for row in (3, 20):
        values = [self_moved(problem, row, step) for step in (1e-5, -1e-5)]
        moved = (values[0] - values[1]) / 2e-5
        expected = np.zeros(len(problem.query))
        for tree in range(forest.trees):
            same = query[:, tree] == train[row, tree]
            expected += same * final[:, forest.output[tree]] * moved[tree]
        expected *= -sign(problem) * weights[row]
        np.testing.assert_allclose(found[row], expected, rtol=2e-4, atol=2e-6 * np.abs(found).max())


def self_moved(problem: Problem, row: int, step: float) -> np.ndarray:
    """The row's leaf values when its weight changes by a step and no other row's raw scores follow."""
    learner, fitted = problem.learner, problem.learner.fit(problem.train)
    forest, labels = fitted.forest, learner.labels(problem.train)
    numbers = learner.leaves(fitted, problem.train)
    weights = problem.train.weights().copy()
    weights[row] += step
    raw, found = np.tile(forest.base, (len(labels), 1)), np.zeros(forest.trees)
    for number in range(learner.rounds):
        trees = [t for t in range(forest.trees) if forest.round[t] == number]
        for t in trees:
            found[t] = (
                learner.rate * learner.stepped(t, trees, numbers, (raw, labels, weights))[numbers[row, t]]
            )
        for t in trees:
            change = forest.values[4 * t + numbers[:, t]]
            change[row] = found[t]
            raw[:, forest.output[t]] += change
    return found


def test_several_steps_per_leaf_are_refitted_as_they_are_and_followed_at_their_end() -> None:
    problem = planted_problem(Planted("logistic", steps=12, l2=0.0, rounds=4, skew=-0.3))
    found, expected = score.LeafRefit()(problem), score.LeaveOneOut()(problem)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9, atol=1e-10)


def test_copies_have_equal_scores_and_absent_examples_have_none() -> None:
    for name in ("boostin", "leaf_influence", "leaf_inf_sp", "leaf_refit"):
        values = score.by_name(name)(planted_problem(Planted("softmax", 3, scale=1.5), weighted=True)).values
        np.testing.assert_allclose(values[7], values[3], rtol=1e-6)
        assert not values[5].any()


def test_refits_with_any_weights_are_those_of_the_learner() -> None:
    problem = planted_problem(Planted("softmax", 3, scale=1.5))
    weights = np.random.default_rng(0).uniform(0, 2, (3, len(problem.train)))
    leaves = leaves_of(problem, in_memory())
    raw = refitted(leaves, weights)
    for one, own in zip(weights, raw.swapaxes(0, 1), strict=True):
        fitted = problem.learner.fit(problem.train, weights=one)
        np.testing.assert_allclose(
            leaves.answers(own), problem.learner.measure(fitted, problem.query), rtol=1e-10
        )


def test_blocks_of_queries_and_of_refits_change_nothing(monkeypatch) -> None:
    from steelyard.score import leaf_effects, leaf_refit

    problem = planted_problem(Planted("softmax", 3, scale=1.5))
    before = [score.by_name(name)(problem).values for name in ("leaf_influence", "leaf_refit")]
    monkeypatch.setattr(leaf_effects, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(leaf_effects, "_HELD", 2)
    monkeypatch.setattr(leaf_refit, "_BLOCK_BYTES", 1)
    after = [score.by_name(name)(problem).values for name in ("leaf_influence", "leaf_refit")]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_leaves_without_a_rule_are_refused() -> None:
    problem = planted_problem(replace(Planted(), rule="gradient"))
    odd = replace(problem.learner, rule="renewed")
    assert inputs(problem.train).shape[1] == 3
    for name in ("boostin", "leaf_influence", "leaf_inf_sp", "leaf_refit"):
        with pytest.raises(CapabilityError, match="renewed"):
            score.by_name(name)(Problem(odd, problem.train, problem.query))


def weighted_paths(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """One-hot leaves of both sides, over the number of training examples in the leaf, by loops."""
    learner, fitted = problem.learner, problem.learner.fit(problem.train)
    present = problem.train.weights() > 0
    train, query = learner.leaves(fitted, problem.train), learner.leaves(fitted, problem.query)
    found = [np.zeros((len(side), 4 * fitted.forest.trees)) for side in (train, query)]
    for tree in range(fitted.forest.trees):
        for leaf in range(4):
            count = max(1, (present & (train[:, tree] == leaf)).sum())
            for vectors, side in zip(found, (train, query), strict=True):
                vectors[side[:, tree] == leaf, 4 * tree + leaf] = 1 / count
    return found[0], found[1]


KERNELS = ["squared", "logistic", "softmax as LightGBM", "higher is better"]


@pytest.mark.parametrize("name", KERNELS)
def test_tree_sim_is_a_signed_product_of_paths(name: str) -> None:
    problem = planted_problem(LEARNERS[name], weighted=True)
    train, query = weighted_paths(problem)
    learner, fitted = problem.learner, problem.learner.fit(problem.train)
    found = score.TreeSim()(problem).values
    y, z = learner.labels(problem.train), learner.labels(problem.query)
    raw = raw_scores(fitted.forest, learner.leaves(fitted, problem.query))[:, 0]
    for i in range(len(y)):
        for q in range(len(z)):
            same = (y[i] >= raw[q]) == (z[q] >= raw[q]) if learner.kind == "squared" else y[i] == z[q]
            expected = (1 if same else -1) * train[i] @ query[q] * (i != 5)
            np.testing.assert_allclose(found[i, q], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", KERNELS)
def test_trex_takes_terms_out_of_a_kernel_model(name: str) -> None:
    problem = planted_problem(LEARNERS[name], weighted=True)
    learner, (train, query) = problem.learner, weighted_paths(problem)
    y, share = learner.labels(problem.train), problem.train.weights() / problem.train.weights().sum()
    outputs, penalty = learner.outputs, 0.01
    targets = y[:, None] if outputs == 1 else (y[:, None] == np.arange(outputs)) * 1.0

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(-1, outputs)
        raw = train @ w
        slopes = share[:, None] * learner.objective.gradient(raw, y)
        value = share @ learner.objective.loss(raw, y) + penalty * (w**2).sum()
        return value, (train.T @ slopes + 2 * penalty * w).ravel()

    best = minimize(
        objective, np.zeros(train.shape[1] * outputs), jac=True, method="BFGS", options={"gtol": 1e-11}
    ).x
    w = best.reshape(-1, outputs)
    slope = learner.objective.gradient(train @ w, y)
    alpha = -share[:, None] * slope / (2 * penalty)
    np.testing.assert_allclose(train.T @ alpha, w, atol=2e-6)
    assert targets.shape == alpha.shape
    whole = learner.answers(None, problem.query, query @ w)
    found = score.TREX(penalty=penalty)(problem).values
    for i in range(len(y)):
        without = query @ (w - np.outer(train[i], alpha[i]))
        expected = sign(problem) * (learner.answers(None, problem.query, without) - whole)
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-6)
    assert np.abs(found).max() > 1e-4
    assert not found[5].any()
