"""Leave-one-out against the closed form of ridge regression, and against its definition."""

import numpy as np
import pytest

from steelyard.errors import FitError, SettingError
from steelyard.run import in_memory, open_run
from steelyard.score.leave_one_out import LeaveOneOut
from tests.problems import additive_problem, additive_truth, inputs, ridge_problem

pytestmark = pytest.mark.reference


def test_equals_the_leverage_formula_for_ridge():
    problem = ridge_problem()
    x, q = inputs(problem.train), inputs(problem.query)
    y, target = problem.train.labels(), problem.query.labels()
    inverse = np.linalg.inv(x.T @ x + problem.learner.penalty * np.eye(4))
    theta = inverse @ x.T @ y
    leverage = np.einsum("ij,jk,ik->i", x, inverse, x)
    # Sherman-Morrison: without i the parameters move by -H^-1 x_i r_i / (1 - h_i).
    moved = theta[None] - (x @ inverse) * ((y - x @ theta) / (1 - leverage))[:, None]
    expected = (q @ moved.T - target[:, None]) ** 2 - ((q @ theta - target) ** 2)[:, None]
    scores = LeaveOneOut()(problem)
    np.testing.assert_allclose(scores.values, expected.T, rtol=1e-9, atol=1e-11)
    assert scores.unit == "squared units"
    assert scores.axis == "pair"


def test_positive_means_helpful_for_a_measurement_that_is_better_when_higher():
    problem = additive_problem()
    np.testing.assert_allclose(LeaveOneOut()(problem).values, additive_truth(problem), atol=1e-9)


def test_noise_averages_out_over_paired_seeds():
    problem = additive_problem(train=20, noise=0.5)
    truth = additive_truth(problem)
    errors = [np.abs(LeaveOneOut(seeds)(problem).values - truth).mean() for seeds in (1, 16)]
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.35)


def test_costs_what_it_predicts():
    problem, run = ridge_problem(noise=0.1), in_memory()
    scores = LeaveOneOut(seeds=2)(problem, run)
    assert scores.provenance.predicted.fits == scores.provenance.cost.fits == run.cost.fits == 82


def test_goes_on_where_it_was_killed(tmp_path):
    problem = ridge_problem(noise=0.1)
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        method = LeaveOneOut(seeds=2)
        state = method.prepare(problem, run)
        method.score(problem, state, slice(0, 15))
        assert run.cost.fits == 2 + 30
        scores = method(problem, run)
        assert run.cost.fits == 82
    np.testing.assert_array_equal(scores.values, LeaveOneOut(seeds=2)(problem).values)


def test_a_fit_that_fails_names_the_example():
    with pytest.raises(FitError, match="t0004"):
        LeaveOneOut()(ridge_problem(needs=("t0004",)))
    with pytest.raises(FitError, match="on everything"):
        LeaveOneOut()(ridge_problem(needs=("nobody",)))
    with pytest.raises(SettingError):
        LeaveOneOut(seeds=0)
