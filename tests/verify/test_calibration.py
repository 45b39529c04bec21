"""Calibration: slope 1 for the truth, 1/c for c times the truth, 0 for random scores."""

import numpy as np
import pytest
from scipy.stats import linregress

from steelyard.errors import FitError, SettingError
from steelyard.run import in_memory
from steelyard.verify import calibration
from tests.problems import additive_problem, additive_truth, ridge_problem, scores_of


def test_the_truth_of_a_linear_game_has_slope_one():
    problem = additive_problem()
    evidence = calibration(problem, scores_of(problem, additive_truth(problem)), groups=10, fraction=0.05)
    assert evidence.estimate == pytest.approx(1)
    assert evidence.control["intercept"] == pytest.approx(0, abs=1e-9)
    assert evidence.control["correlation"] == pytest.approx(1)
    assert evidence.verdict == "confirmed"
    np.testing.assert_allclose(evidence.table["predicted"], evidence.table["measured"])
    assert evidence.table["size"] == [3] * 10


def test_scores_that_promise_too_much_are_refuted_and_told_by_how_much():
    problem = additive_problem(noise=0.05)
    evidence = calibration(problem, scores_of(problem, 3 * additive_truth(problem)), groups=10)
    assert evidence.estimate == pytest.approx(1 / 3, abs=0.02)
    assert evidence.verdict == "refuted"
    assert "promise 3" in evidence.power
    modest = calibration(problem, scores_of(problem, additive_truth(problem) / 4), groups=10)
    assert modest.verdict == "refuted"
    assert modest.estimate == pytest.approx(4, abs=0.2)


@pytest.mark.reference
def test_slope_intercept_and_interval_are_those_of_least_squares():
    problem = additive_problem(noise=1.0)
    evidence = calibration(problem, scores_of(problem, additive_truth(problem)), groups=12, seeds=2)
    twin = linregress(evidence.table["predicted"], evidence.table["measured"])
    assert evidence.estimate == pytest.approx(twin.slope)
    assert evidence.control["intercept"] == pytest.approx(twin.intercept)
    assert evidence.control["correlation"] == pytest.approx(twin.rvalue)
    assert evidence.p_value == pytest.approx(twin.pvalue)
    assert evidence.interval[1] - evidence.estimate == pytest.approx(2.228139 * twin.stderr)


@pytest.mark.laws
@pytest.mark.parametrize("noise", [0.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_random_scores_have_slope_zero(noise):
    problem, trials, called = additive_problem(train=50, query=3, noise=noise), 200, 0
    for trial in range(trials):
        scores = scores_of(
            problem, np.random.default_rng(trial).normal(size=(50, 3)), method=f"Random({trial})"
        )
        evidence = calibration(problem, scores, groups=8, fraction=0.06, seeds=2)
        called += evidence.verdict == "confirmed"
    assert called <= trials * 0.025 + 3 * (trials * 0.025 * 0.975) ** 0.5


def test_failed_groups_are_left_out_and_shown_as_missing():
    problem = ridge_problem(noise=0.1, needs=("t0000",))
    values = np.tile(np.linspace(-1, 1, 40)[:, None], (1, 6))
    evidence = calibration(problem, scores_of(problem, values), groups=10, fraction=0.1, seeds=2)
    assert evidence.provenance.resolved["groups_used"] == 9
    assert evidence.table["measured"].count(None) == 1
    with pytest.raises(FitError, match="groups could be trained"):
        calibration(problem, scores_of(problem, np.ones((40, 6))), groups=10, fraction=0.1)


def test_cost_is_predicted():
    problem, run = ridge_problem(noise=0.1), in_memory()
    scores = scores_of(problem, np.random.default_rng(0).normal(size=(40, 6)))
    evidence = calibration(problem, scores, groups=5, seeds=3, run=run)
    assert run.cost.fits == evidence.provenance.predicted.fits == 18


def test_ranks_wrong_units_and_bad_groups_are_refused():
    problem = ridge_problem()
    values = np.random.default_rng(0).normal(size=(40, 6))
    with pytest.raises(SettingError, match="lds"):
        calibration(problem, scores_of(problem, values, unit="rank"))
    with pytest.raises(SettingError, match="'nats'"):
        calibration(problem, scores_of(problem, values, unit="nats"))
    with pytest.raises(SettingError, match="groups"):
        calibration(problem, scores_of(problem, values), groups=3)
    with pytest.raises(SettingError, match="groups"):
        calibration(problem, scores_of(problem, values), groups=10, fraction=0.2)
