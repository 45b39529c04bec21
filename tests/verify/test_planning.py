"""Power before the experiment: the number of fits that is named shows the effect as often as was said."""

import numpy as np
import pytest

from steelyard.errors import FitError, SettingError
from steelyard.problem import Problem
from steelyard.run import open_run
from steelyard.verify import FORECAST, forecast, lds
from tests.problems import additive_problem, additive_truth, ridge_problem, scores_of


def blurred(problem: Problem, share: float) -> np.ndarray:
    """Scores that know a part of the truth."""
    truth = additive_truth(problem)
    noise = np.random.default_rng(5).normal(size=truth.shape) * truth.std()
    return share * truth + (1 - share**2) ** 0.5 * noise


def test_the_named_number_of_fits_sees_the_effect_four_times_in_five():
    base = additive_problem(60, 6)
    values = blurred(base, 0.3)
    effect = lds(base, scores_of(base, values), subsets=1500).estimate
    assert 0.15 < effect < 0.45
    found = forecast(base, scores_of(base, values), metric="lds", effect=effect)
    assert found.fits is not None and 8 < found.fits < 400 and str(found.fits) in found.says
    seen = 0
    for seed in range(30):
        problem = additive_problem(60, 6, seed=seed)
        seen += lds(problem, scores_of(problem, values), subsets=found.fits).verdict == "confirmed"
    assert 0.6 <= seen / 30 <= 1.0


def test_smaller_effects_and_noisier_training_need_more_fits():
    quiet, noisy = additive_problem(60, 6), additive_problem(60, 6, noise=6.0)
    truth = scores_of(quiet, additive_truth(quiet))
    few, many = (forecast(quiet, truth, metric="lds", effect=e).fits for e in (0.4, 0.2))
    assert few is not None and many is not None and many > 3 * few
    loud = forecast(noisy, scores_of(noisy, additive_truth(noisy)), metric="lds", effect=0.4)
    assert loud.fits is not None and loud.fits > few and "perfect scores would reach" in loud.says


@pytest.mark.parametrize("metric", sorted(FORECAST))
def test_every_forecast_says_what_it_took(metric):
    problem = additive_problem(60, 6, noise=0.5)
    found = forecast(problem, scores_of(problem, additive_truth(problem)), metric=metric)
    assert found.metric == metric and 12 <= found.pilot <= 14 and f"{found.pilot}" in found.says
    assert found.fits is None or found.fits > 4


def test_a_verification_in_the_same_run_reads_the_pilot(tmp_path):
    problem = additive_problem(40, 4)
    scores = scores_of(problem, additive_truth(problem))
    with open_run(tmp_path / "run", {"test": 1}, show="quiet") as run:
        forecast(problem, scores, metric="lds", run=run)
        assert run.cost.fits == 12
        lds(problem, scores, subsets=16, run=run)
        assert run.cost.fits == 12 + 16 - 6  # six of the sixteen subsets are there already


def test_an_effect_beyond_reach_is_called_that():
    problem = additive_problem(60, 4, noise=0.5)
    found = forecast(problem, scores_of(problem, additive_truth(problem)), metric="qld", effect=1e-9)
    assert found.fits is None and "no design" in found.says


def test_what_cannot_be_forecast_is_refused():
    problem = ridge_problem()
    scores = scores_of(problem, np.ones((40, 6)))
    with pytest.raises(SettingError, match="no forecast for 'mrr'"):
        forecast(problem, scores, metric="mrr")
    with pytest.raises(SettingError, match="positive effect"):
        forecast(problem, scores, metric="lds", effect=0.0)
    broken = ridge_problem(needs=("nobody",))
    with pytest.raises(FitError):
        forecast(broken, scores_of(broken, np.ones((40, 6))), metric="lds")
