"""Datamodels, AME, Data-OOB, class-wise Shapley, least core and LAVA: what each promises, on games with known
answers."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from steelyard.errors import CapabilityError, NumericsError, SettingError
from steelyard.learners import Sklearn
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run
from steelyard.score import (
    AME,
    LAVA,
    Banzhaf,
    BetaShapley,
    ClassWiseShapley,
    Datamodels,
    DataOOB,
    DataShapley,
    LeastCore,
    Memorization,
)
from tests.games import by_definition, shapley_weight, table_problem
from tests.problems import additive_problem, additive_truth, ridge_problem


def three_classes() -> Problem:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 2)) + np.repeat(np.eye(3, 2), 8, axis=0) * 2, np.repeat(np.arange(3), 8)
    learner = Sklearn(LogisticRegression(), measurement="accuracy")
    return Problem(learner, train=(x[::2], y[::2]), query=(x[1::2], y[1::2]))


@pytest.mark.parametrize("regression", ["ridge", "lasso"])
def test_datamodels_recover_a_planted_linear_game_exactly(regression):
    problem = additive_problem(20, 4)
    scores = Datamodels(fits=80, regression=regression)(problem)
    np.testing.assert_allclose(scores.values, additive_truth(problem), rtol=0, atol=1e-9)
    assert scores.provenance.resolved["out-of-sample correlation, median over queries"] == pytest.approx(1.0)


def test_datamodels_of_noise_tell_that_they_predict_nothing():
    problem = additive_problem(30, 4, noise=50.0)
    scores = Datamodels(fits=200)(problem)
    told = scores.provenance.resolved["out-of-sample correlation by query"]
    assert len(told) == 4
    assert np.abs(told).max() < 0.3
    # An interval that holds the truth in about 95 of 100 cases, up to the shrinkage.
    off = np.abs(scores.values - additive_truth(problem)) / np.maximum(scores.uncertainty.pairs, 1e-12)
    assert np.median(off) < 20


def test_standard_errors_of_datamodels_are_those_of_repetitions():
    found = [Datamodels(fits=80)(additive_problem(8, 2, noise=1.0, seed=seed)) for seed in range(24)]
    values = np.stack([one.values for one in found])
    errors = np.stack([one.uncertainty.pairs for one in found])
    assert 0.8 < errors.mean() / values.std(axis=0, ddof=1).mean() < 1.25
    z = (values.mean(axis=0) - additive_truth(additive_problem(8, 2))) / (
        values.std(axis=0, ddof=1) / np.sqrt(24)
    )
    assert np.abs(z).max() < 4.5


def test_lasso_finds_the_few_examples_that_matter():
    effects = np.zeros(12)
    effects[[2, 7]] = 3.0, -2.0
    bits = np.arange(2**12)[:, None] >> np.arange(12) & 1
    problem = table_problem(12, utilities=(bits @ effects)[:, None])
    found = AME(fits=60)(problem).values[:, 0]
    assert set(np.argsort(-np.abs(found))[:2]) == {2, 7}
    assert np.abs(np.delete(found, [2, 7])).max() < 0.5


def test_a_larger_budget_goes_on_from_a_smaller_one(tmp_path):
    problem = ridge_problem(20, 3)

    def work(fits: int) -> int:
        with (
            pytest.raises(RuntimeError, match="stop here"),
            open_run(tmp_path / "run", {}, show="quiet") as run,
        ):
            before = run.cost.fits
            Banzhaf(fits=fits)(problem, run)
            made.append(run.cost.fits - before)
            raise RuntimeError("stop here")  # so that the folder stays open for more
        return made[-1]

    made: list[int] = []
    assert [work(64), work(150), work(64)] == [64, 86, 0]


SPENDERS = [
    DataShapley(fits=100, nobody=0.0),
    DataShapley(fits=200, sampler="stratified", nobody=0.0),
    DataShapley(fits=100, sampler="owen", nobody=0.0),
    DataShapley(fits=101, sampler="complementary", nobody=0.0, seeds=2),
    DataShapley(fits=100, truncation=0.1, nobody=0.0),
    BetaShapley(fits=100, nobody=0.0),
    Banzhaf(fits=70),
    Datamodels(fits=50),
    AME(fits=50),
    LeastCore(fits=50, nobody=0.0),
    DataOOB(fits=50),
]
NAMED = {"ids": lambda m: f"{type(m).__name__}-{getattr(m, 'sampler', getattr(m, 'of', ''))}"}
OTHERS = [ClassWiseShapley(fits=60), Memorization(fits=30), Memorization(of="queries", fits=30)]


@pytest.mark.parametrize("method", [*SPENDERS, *OTHERS], **NAMED)
def test_no_more_fits_are_made_than_allowed(method):
    problem = three_classes() if isinstance(method, ClassWiseShapley) else ridge_problem(12, 2)
    run = in_memory()
    scores = method(problem, run)
    assert 0 < run.cost.fits <= method.fits
    assert scores.provenance.cost.fits == run.cost.fits
    if method in SPENDERS:
        assert scores.provenance.resolved["fits"] == run.cost.fits
    assert method.predict(problem).fits == method.fits
    assert scores.uncertainty is not None


@pytest.mark.parametrize("method", SPENDERS, **NAMED)
def test_a_budget_too_small_says_what_would_do(method):
    from dataclasses import replace

    small = replace(method, fits=3)
    with pytest.raises(SettingError, match="fits=3 is too small") as caught:
        small(ridge_problem(12, 2))
    assert "fits=" in caught.value.fix


def test_precision_stops_early():
    problem = table_problem(6, 2)
    loose = DataShapley(fits=2000, precision=0.5, nobody=0.0)(problem)
    assert loose.provenance.resolved["stopped by"] == "precision"
    assert loose.uncertainty.examples.max() <= 0.5
    assert any("reached its precision" in note for note in loose.provenance.notes)
    assert loose.provenance.resolved["units"] < (2000 - 1) // 5


def test_time_out_leaves_valid_estimates_and_says_what_all_would_take():
    problem = table_problem(8, 2)
    scores = Banzhaf(fits=2000, seconds=1e-9)(problem)
    assert scores.provenance.resolved["stopped by"] == "seconds"
    assert scores.provenance.resolved["units"] == 250
    note = next(note for note in scores.provenance.notes if "stopped after" in note)
    assert "all of them would take about" in note


class Interrupter:
    def __init__(self, at: int) -> None:
        self.fits, self.at = 0, at

    def __call__(self) -> None:
        self.fits += 1
        if self.fits == self.at:
            raise KeyboardInterrupt


def test_ctrl_c_leaves_what_the_fits_so_far_say():
    interrupted = table_problem(10, 2, stop=Interrupter(200))
    scores = Banzhaf(fits=400)(interrupted)
    assert scores.provenance.resolved["stopped by"] == "interrupted"
    units = scores.provenance.resolved["units"]
    assert 150 <= units < 400
    assert units % 50 == 0  # whole batches
    undisturbed = Banzhaf(fits=units)(table_problem(10, 2))
    np.testing.assert_allclose(scores.values, undisturbed.values, atol=1e-12)
    whole = Banzhaf(fits=400)(table_problem(10, 2))
    assert scores.uncertainty.examples.mean() > whole.uncertainty.examples.mean()
    with pytest.raises(KeyboardInterrupt):
        Banzhaf(fits=400)(table_problem(10, 2, stop=Interrupter(10)))


def test_failed_fits_are_left_out_and_told():
    problem = table_problem(5, 2, refuses=frozenset({3, 7}))
    scores = DataShapley(fits=200, nobody=0.0)(problem)
    assert any("fits failed and are left out" in note for note in scores.provenance.notes)
    with pytest.raises(SettingError, match="needs the outcome of every coalition"):
        DataShapley(exact=True, nobody=0.0)(problem)
    with pytest.raises(NumericsError, match="training on everything failed"):
        DataShapley(fits=200, nobody=0.0)(table_problem(5, 2, refuses=frozenset({31})))


def test_constant_outcomes_are_refused():
    flat = table_problem(6, utilities=np.ones((64, 2)))
    for method in (Banzhaf(fits=64), Datamodels(fits=40), DataShapley(fits=64, nobody=1.0)):
        with pytest.raises(NumericsError, match="was the same after all"):
            method(flat)


def test_sixteen_players_at_most_are_enumerated():
    with pytest.raises(SettingError, match="2\\^17 fits"):
        DataShapley(exact=True, nobody=0.0)(additive_problem(17, 1))


def test_exact_is_mentioned_where_it_is_affordable():
    scores = DataShapley(fits=200, nobody=0.0)(table_problem(5, 1))
    assert any("exact=true" in note for note in scores.provenance.notes)


def test_training_noise_is_averaged_over_seeds():
    problem = additive_problem(6, 2, noise=0.5)
    one, many = (DataShapley(exact=True, nobody=0.0, seeds=seeds)(problem).values for seeds in (1, 16))
    truth = additive_truth(problem)
    assert np.abs(many - truth).mean() < 0.6 * np.abs(one - truth).mean()


def labelled(count: int = 60, flips: int = 6, measurement: str = "loss", neighbours: bool = False) -> Problem:
    rng = np.random.default_rng(0)
    y = np.arange(count + 30) % 3
    x = rng.normal(size=(count + 30, 4)) + 3.0 * np.eye(3, 4)[y]
    train = y[:count].copy()
    train[:flips] = (train[:flips] + 1) % 3
    estimator = KNeighborsClassifier(3) if neighbours else LogisticRegression()
    learner = Sklearn(estimator, measurement=measurement)
    return Problem(learner, (x[:count], train), (x[count:], y[count:]))


@pytest.mark.parametrize("measurement", ["loss", "margin", "accuracy"])
@pytest.mark.parametrize("neighbours", [False, True])
def test_out_of_bag_finds_wrong_labels(measurement, neighbours):
    scores = DataOOB(fits=40)(labelled(measurement=measurement, neighbours=neighbours))
    assert (scores.axis, scores.suspect) == ("example", "low")
    wrong, right = scores.values[:6, 0], scores.values[6:, 0]
    assert np.mean(wrong[:, None] < right[None]) > 0.9


def test_out_of_bag_by_hand():
    from steelyard.collect.coalitions import bags

    problem = ridge_problem(8, 1)
    scores = DataOOB(fits=16)(problem)
    rows = [[] for _ in range(8)]
    for bag in bags(0, 8, range(16)):  # ids are in the order of the rows
        fitted = problem.learner.fit(problem.train.take(np.flatnonzero(bag)), bag[bag > 0])
        for row in np.flatnonzero(bag == 0):
            rows[row].append(-problem.learner.measure(fitted, problem.train)[row])
    np.testing.assert_allclose(scores.values[:, 0], [np.mean(row) for row in rows], rtol=1e-9)
    expected = [np.std(row, ddof=1) / np.sqrt(len(row)) for row in rows]
    np.testing.assert_allclose(scores.uncertainty.examples, expected, rtol=1e-9)


def test_an_example_in_every_bag_is_refused():
    with pytest.raises(NumericsError, match="in all 8 bags"):
        DataOOB(fits=8)(ridge_problem(200, 1))


def test_class_wise_shapley_is_that_of_its_definition():
    problem = labelled(6, 1, "accuracy", neighbours=False)
    exact = class_wise_by_definition(problem)
    scores = ClassWiseShapley(fits=4000)(problem)
    off = np.abs(scores.values[:, 0] - exact) / np.maximum(scores.uncertainty.examples, 1e-3)
    assert off.max() < 4.5
    with pytest.raises(CapabilityError, match="measurement is 'loss'"):
        ClassWiseShapley()(labelled(12, 1))


def class_wise_by_definition(problem: Problem) -> np.ndarray:
    labels, asked = problem.train.labels(), problem.query.labels()
    count = len(labels)

    def right(bits: int) -> np.ndarray:
        rows = np.flatnonzero(bits >> np.arange(count) & 1)
        if len(np.unique(labels[rows])) < 2:
            return np.full(len(asked), 1 / 3)
        fitted = problem.learner.fit(problem.train.take(rows))
        return problem.learner.measure(fitted, problem.query)

    table = np.stack([right(bits) for bits in range(2**count)])
    values = np.zeros(count)
    for label in np.unique(labels):
        own, other = (np.flatnonzero(part) for part in (labels == label, labels != label))
        utilities = (table * (asked == label)).mean(1) * np.exp((table * (asked != label)).mean(1))
        games = []
        for around in range(2 ** len(other)):
            outside = sum(1 << int(other[j]) for j in range(len(other)) if around >> j & 1)
            inside = [
                sum(1 << int(own[j]) for j in range(len(own)) if b >> j & 1) for b in range(2 ** len(own))
            ]
            games.append(utilities[np.array(inside) + outside])
        values[own] = by_definition(np.stack(games, axis=1), shapley_weight).mean(axis=1)
    return values


def test_the_least_core_shares_the_gain_and_serves_its_coalitions():
    problem = table_problem(5, 2)
    scores = LeastCore(fits=200, nobody=0.0)(problem)
    mean = problem.learner.utilities.mean(axis=1)
    assert scores.values.sum() == pytest.approx(mean[-1], abs=1e-9)
    masks = (np.arange(32)[:, None] >> np.arange(5) & 1)[1:]
    deficit = scores.provenance.resolved["deficit"]
    assert (mean[1:] - masks @ scores.values[:, 0]).max() <= deficit + 1e-7


def test_lava_finds_examples_unlike_the_queries():
    problem = labelled(60, 6)
    values = LAVA(embedding="inputs")(problem).values[:, 0]
    assert values[:6].mean() < values[6:].mean()
    far = problem.train.column("input")[:].copy()
    far[10] += 40.0
    moved = problem.train.with_column("input", far, "far")
    values = LAVA(embedding="inputs", label_weight=0)(Problem(problem.learner, moved, problem.query)).values[
        :, 0
    ]
    assert int(np.argmin(values)) == 10
    assert abs(values.sum()) < 1e-8  # calibrated: free of the common constant
