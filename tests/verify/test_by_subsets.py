"""LDS: 1 for the truth of a linear game, chance for random scores, invariant where it should be."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from steelyard.collect.designs import random_subsets
from steelyard.collect.fits import outcomes
from steelyard.errors import DataError, FitError, NumericsError, SettingError
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run
from steelyard.score.leave_one_out import LeaveOneOut
from steelyard.verify import lds
from tests.problems import additive_problem, additive_truth, ridge_problem, scores_of


def test_the_truth_of_a_linear_game_has_an_lds_of_one():
    problem = additive_problem()
    evidence = lds(problem, scores_of(problem, additive_truth(problem)))
    assert evidence.estimate == pytest.approx(1)
    assert evidence.interval == pytest.approx((1, 1))
    assert evidence.verdict == "confirmed"
    assert evidence.p_value == pytest.approx(1 / 200)
    assert abs(evidence.control["estimate"]) < 0.1
    assert evidence.provenance.notes == ()


def test_the_opposite_is_refuted():
    problem = additive_problem()
    evidence = lds(problem, scores_of(problem, -additive_truth(problem)))
    assert evidence.estimate == pytest.approx(-1)
    assert evidence.verdict == "refuted"


def test_leave_one_out_scores_of_a_loss_have_the_right_sign():
    problem = ridge_problem(query=20)
    evidence = lds(problem, LeaveOneOut()(problem), fraction=0.8)
    assert evidence.estimate > 0.5
    assert evidence.verdict == "confirmed"


@pytest.mark.reference
def test_equals_the_definition():
    problem = ridge_problem(noise=0.1)
    draw = np.random.default_rng(0)
    values = draw.normal(size=(40, 6))
    evidence = lds(problem, scores_of(problem, values), subsets=20, seeds=2)
    masks = random_subsets(problem, 20, fraction=0.5, name="verification/lds")
    both = [outcomes(problem, masks, [s] * 20, in_memory(), purpose="verification").values for s in (0, 1)]
    goodness = -np.mean(both, axis=0)
    by_hand = [spearmanr([values[m > 0, q].sum() for m in masks], goodness[:, q]).statistic for q in range(6)]
    np.testing.assert_allclose(evidence.table["correlation"], by_hand, atol=1e-12)
    assert evidence.estimate == pytest.approx(np.mean(by_hand))
    assert evidence.provenance.cost.fits == evidence.provenance.predicted.fits == 40


@pytest.mark.laws
def test_scale_order_and_dtype_of_the_scores_do_not_matter():
    problem = ridge_problem(noise=0.05)
    scores = LeaveOneOut()(problem)
    expected = lds(problem, scores, subsets=24)
    scaled = replace(scores, values=scores.values * np.array([1.0, 5, 0.1, 100, 2, 3]), unit="rank")
    assert lds(problem, scaled, subsets=24).estimate == pytest.approx(expected.estimate)
    shifted = replace(
        scores, values=scores.values + 7.0
    )  # subsets of equal size: a constant shifts all sums alike
    assert lds(problem, shifted, subsets=24).estimate == pytest.approx(expected.estimate)
    rows, columns = np.random.default_rng(0).permutation(40), np.random.default_rng(1).permutation(6)
    shuffled = replace(
        scores,
        values=scores.values[np.ix_(rows, columns)],
        train_ids=scores.train_ids[rows],
        query_ids=scores.query_ids[columns],
    )
    again = lds(problem, shuffled, subsets=24)
    assert again.table == expected.table
    assert again.interval == expected.interval


@pytest.mark.laws
def test_random_scores_are_confirmed_no_more_often_than_chance():
    problem, trials, called = ridge_problem(query=4), 120, 0
    with_kept = KeptOutcomes(problem)
    for trial in range(trials):
        values = np.random.default_rng(trial).normal(size=(40, 4))
        called += lds(with_kept.problem(trial), scores_of(problem, values), subsets=12).verdict == "confirmed"
    assert called <= trials * 0.05 + 3 * (trials * 0.05 * 0.95) ** 0.5


class KeptOutcomes:
    """The same data with another seed for every trial, so that subsets differ."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def problem(self, seed: int) -> Problem:
        return Problem(self._problem.learner, self._problem.train, self._problem.query, seed=seed)


@pytest.mark.laws
def test_luck_of_fixed_random_scores_is_not_called_signal_with_many_subsets():
    """A fixed random matrix correlates with the truth by luck; its bootstrap interval excludes 0, its p does not."""
    called, excluded = 0, 0
    for trial in range(15):
        problem = additive_problem(train=15, query=2, seed=trial)
        values = np.random.default_rng(trial).normal(size=(15, 2))
        evidence = lds(problem, scores_of(problem, values), subsets=200)
        called += evidence.verdict == "confirmed"
        excluded += evidence.interval[0] > 0 or evidence.interval[1] < 0
    assert excluded >= 4
    assert called <= 3  # binomial(15, .05): above 3 in 1 of 200


def test_constant_outcomes_are_left_out_and_counted():
    problem = additive_problem()
    queries = np.asarray(problem.query.column("input")).copy()
    queries[1] = 0.0
    still = Problem(problem.learner, problem.train, problem.query.with_column("input", queries, "still"))
    evidence = lds(still, scores_of(still, additive_truth(still) + np.eye(60, 5)))
    assert evidence.table["correlation"][1] is None
    assert evidence.provenance.resolved["queries_used"] == 4
    assert any("1 of 5 queries left out" in note for note in evidence.provenance.notes)
    queries[:] = 0.0
    dead = Problem(problem.learner, problem.train, problem.query.with_column("input", queries, "dead"))
    with pytest.raises(FitError, match="the same after training on any"):
        lds(dead, scores_of(dead, additive_truth(problem)))


def test_the_ceiling_tells_seed_noise_from_bad_scores():
    problem = additive_problem(noise=4.0)
    truth = scores_of(problem, additive_truth(problem))
    one, four = lds(problem, truth, subsets=48), lds(problem, truth, subsets=48, seeds=4)
    assert "ceiling" not in one.control
    assert "unknown amount" in one.power
    assert one.estimate < four.estimate < 1
    assert four.estimate == pytest.approx(four.control["ceiling"], abs=0.1)


def test_failed_subsets_are_left_out_and_counted():
    problem = ridge_problem(needs=("t0007",))
    evidence = lds(problem, scores_of(problem, np.random.default_rng(0).normal(size=(40, 6))), subsets=40)
    used = evidence.provenance.resolved["subsets_used"]
    assert 8 <= used < 40
    assert any(f"{40 - used} of 40 fits failed" in note for note in evidence.provenance.notes)
    with pytest.raises(FitError, match="subsets could be fitted"):
        lds(ridge_problem(needs=("nobody",)), scores_of(problem, np.ones((40, 6))), subsets=10)


def test_a_killed_verification_goes_on(tmp_path):
    problem = ridge_problem(noise=0.1)
    scores = LeaveOneOut()(problem)
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        masks = random_subsets(problem, 16, fraction=0.5, name="verification/lds")
        outcomes(problem, masks[:5], [0] * 5, run, purpose="verification")
        evidence = lds(problem, scores, subsets=16, run=run)
        assert run.cost.fits == 16
    assert evidence.table == lds(problem, scores, subsets=16).table


def test_bad_scores_and_settings_are_refused():
    problem = ridge_problem()
    good = scores_of(problem, np.ones((40, 6)))
    with pytest.raises(SettingError, match="subsets=5"):
        lds(problem, good, subsets=5)
    with pytest.raises(SettingError, match="subsets of 40"):
        lds(problem, good, fraction=1.0)
    with pytest.raises(DataError, match="training examples"):
        lds(problem, replace(good, train_ids=np.array([f"x{i}" for i in range(40)])))
    with pytest.raises(NumericsError):
        lds(problem, replace(good, values=np.full((40, 6), np.nan)))
    single = replace(good, values=np.ones((40, 1)), query_ids=np.array(["self"]), axis="example")
    with pytest.raises(SettingError, match="removal_curve"):
        lds(problem, single)
