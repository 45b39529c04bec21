"""Removal curves: truth separates, random scores do not, controls have their spread."""

from dataclasses import replace

import numpy as np
import pytest

from steelyard.errors import FitError, SettingError
from steelyard.run import in_memory
from steelyard.verify import removal_curve
from tests.problems import additive_problem, additive_truth, ridge_problem, scores_of


def test_the_truth_of_a_linear_game_is_confirmed_with_the_exact_areas():
    problem = additive_problem()
    truth = additive_truth(problem)
    evidence = removal_curve(problem, scores_of(problem, truth), fractions=(0.05, 0.1, 0.2))
    ranked = np.sort(truth.mean(axis=1))
    harmful = [-ranked[:k].sum() for k in (3, 6, 12)]
    helpful = [-ranked[::-1][:k].sum() for k in (3, 6, 12)]
    np.testing.assert_allclose(evidence.table["harmful"], harmful)
    np.testing.assert_allclose(evidence.table["helpful"], helpful)
    gap = np.concatenate([[0], np.array(harmful) - np.array(helpful)])
    assert evidence.estimate == pytest.approx(np.trapezoid(gap, [0, 0.05, 0.1, 0.2]) / 0.2)
    assert evidence.verdict == "confirmed"
    assert evidence.table["removed"] == [3, 6, 12]


def test_the_opposite_is_refuted_and_ranks_are_enough():
    problem = additive_problem(noise=0.1)
    truth = additive_truth(problem)
    assert removal_curve(problem, scores_of(problem, -truth)).verdict == "refuted"
    assert removal_curve(problem, scores_of(problem, truth, unit="rank")).verdict == "confirmed"
    suspicion = replace(
        scores_of(problem, truth),
        values=-truth.mean(axis=1, keepdims=True),
        query_ids=np.array(["self"]),
        axis="example",
        suspect="high",
    )
    assert removal_curve(problem, suspicion).verdict == "confirmed"


@pytest.mark.laws
@pytest.mark.parametrize("noise", [0.0, pytest.param(4.0, marks=pytest.mark.slow)])
def test_random_scores_are_confirmed_no_more_often_than_chance(noise):
    trials, found = 150, []
    for trial in range(trials):
        problem = additive_problem(train=50, query=3, noise=noise, seed=trial)  # another seed, other controls
        scores = scores_of(
            problem, np.random.default_rng(trial).normal(size=(50, 3)), method=f"Random({trial})"
        )
        found.append(removal_curve(problem, scores, fractions=(0.1, 0.2), seeds=2, controls=4).verdict)
    limit = trials * 0.025 + 3 * (trials * 0.025 * 0.975) ** 0.5
    assert found.count("confirmed") <= limit
    assert found.count("refuted") <= limit


def test_cost_is_predicted_and_a_deterministic_learner_needs_one_seed():
    scores, shares = scores_of(ridge_problem(), np.arange(240.0).reshape(40, 6)), (0.1, 0.2, 0.21)
    run = in_memory()
    evidence = removal_curve(ridge_problem(noise=0.1), scores, fractions=shares, seeds=2, controls=3, run=run)
    assert evidence.table["removed"] == [4, 8]
    assert run.cost.fits == evidence.provenance.predicted.fits == 2 * (1 + 2 * 5)
    run = in_memory()
    removal_curve(ridge_problem(), scores, fractions=shares, seeds=2, controls=3, run=run)
    assert run.cost.fits == 2 + 2 * 5


def test_failed_chains_are_left_out_or_end_in_an_error():
    problem = ridge_problem(noise=0.1, needs=("t0020",))
    values = np.tile(np.arange(40.0)[:, None], (1, 6))
    evidence = removal_curve(problem, scores_of(problem, values), fractions=(0.3,), controls=12, seeds=2)
    assert 3 <= evidence.provenance.resolved["controls_used"] < 12
    broken = ridge_problem(noise=0.1, needs=("t0000",))
    with pytest.raises(FitError, match="0 of 2 seeds"):
        removal_curve(broken, scores_of(broken, values), fractions=(0.3,), seeds=2)


def test_bad_settings_are_refused():
    problem = ridge_problem()
    scores = scores_of(problem, np.ones((40, 6)))
    for fractions in ((), (0.0,), (0.6,), (-0.1, 0.1)):
        with pytest.raises(SettingError, match="fractions"):
            removal_curve(problem, scores, fractions=fractions)
    with pytest.raises(SettingError, match="controls=2"):
        removal_curve(problem, scores, controls=2)
