"""Scores over draws against a loop, the share of false discoveries, and learners without noise."""

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, ttest_1samp
from torch import nn

from steelyard.data import read
from steelyard.errors import CapabilityError, SettingError
from steelyard.learners import SGD, Torch
from steelyard.maths.multiple import benjamini_hochberg, student_p
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run, stream
from steelyard.score.bayesian import Bayesian
from steelyard.score.gradient_products import GradDot
from steelyard.score.leave_one_out import LeaveOneOut
from tests.problems import additive_problem, additive_truth, ridge_problem

pytestmark = pytest.mark.reference


def network(*, trained: bool = False) -> Problem:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(26, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    ids = np.array([f"r{i:02d}" for i in range(26)])
    data = read({"input": x, "label": y, "id": ids})
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    learner = Torch(net, recipe=SGD(lr=0.2, epochs=2, batch_size=8), trained=trained)
    return Problem(learner, data.take(slice(0, 20)), data.take(slice(20, 26)))


def test_adjusted_p_values_are_those_of_scipy():
    p = np.random.default_rng(0).random(50) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p))
    with_gap = np.insert(p, 3, np.nan)
    assert np.isnan(benjamini_hochberg(with_gap)[3])
    np.testing.assert_allclose(np.delete(benjamini_hochberg(with_gap), 3), benjamini_hochberg(p))
    assert student_p(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.0, np.nan]), 4)[:2].tolist() == [1.0, 0.0]


def test_mean_error_and_p_value_are_those_of_a_loop():
    p = network()
    found = Bayesian("grad_dot", draws=5)(p)
    draws = []
    for number in range(5):
        one = Problem(p.learner, p.train, p.query, seed=stream(0, "bayesian", number))
        draws.append(GradDot()(one).values)
    draws = np.array(draws, dtype=np.float64)
    np.testing.assert_allclose(found.values, draws.mean(0), rtol=1e-6)
    assert found.uncertainty is not None and found.uncertainty.freedom == 4
    np.testing.assert_allclose(found.uncertainty.pairs, draws.std(0, ddof=1) / np.sqrt(5), rtol=1e-5)
    of_means = draws.mean(2).std(0, ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(found.uncertainty.examples, of_means, rtol=1e-5)
    raw = ttest_1samp(draws, 0.0).pvalue
    np.testing.assert_allclose(student_p(found.values, found.uncertainty.pairs, 4), raw, rtol=1e-4)
    facts = found.provenance.resolved
    assert facts["pairs_below_.05_unadjusted"] == int((raw < 0.05).sum())
    assert facts["pairs_below_.05"] == int((false_discovery_control(raw.ravel()) < 0.05).sum())
    ratio = np.abs(draws.mean(0)) / draws.std(0, ddof=1)
    assert facts["median_signal_to_noise"] == pytest.approx(np.median(ratio), rel=1e-4)


def test_draws_on_subsets_average_over_those_that_saw_the_example():
    p = network()
    found = Bayesian("grad_dot", draws=12, fraction=0.5)(p)
    assert found.uncertainty is not None and np.isfinite(found.uncertainty.pairs).all()
    again = Bayesian("grad_dot", draws=12, fraction=0.5)(
        Problem(p.learner, p.train.take(np.arange(20)[::-1]), p.query)
    )
    np.testing.assert_allclose(again.values[::-1], found.values, rtol=1e-4, atol=1e-7)
    with pytest.raises(SettingError, match="fewer than two"):
        Bayesian("grad_dot", draws=2, fraction=0.5)(p)


def test_a_deterministic_learner_has_no_noise():
    p = ridge_problem(12, 3)
    run = in_memory()
    found = Bayesian("leave_one_out", draws=3)(p, run)
    np.testing.assert_allclose(found.values, LeaveOneOut()(p).values, rtol=1e-9)
    assert found.uncertainty is not None and found.uncertainty.pairs.max() < 1e-9
    assert found.provenance.resolved["pairs_below_.05"] == 36


def test_noise_alone_is_rarely_called_significant():
    """Removing an example changes nothing but the noise: at most a few of 4,000 pairs may stand out, adjusted."""
    p = additive_problem(200, 20, noise=1.0)
    nothing = Problem(p.learner, p.train.with_column("input", np.zeros((200, 3)), "zero"), p.query)
    facts = Bayesian("leave_one_out", draws=4)(nothing).provenance.resolved
    share = facts["pairs_below_.05_unadjusted"] / 4000
    assert 0.02 < share < 0.09
    assert facts["pairs_below_.05"] <= 20


def test_a_signal_stands_out_of_noise():
    p = additive_problem(30, 4, noise=0.05)
    found = Bayesian("leave_one_out", draws=8)(p)
    truth = additive_truth(p)
    assert found.uncertainty is not None
    z = (found.values - truth) / found.uncertainty.pairs
    assert (np.abs(z) < found.uncertainty.factor()).mean() > 0.85
    assert found.provenance.resolved["pairs_below_.05"] > 60


def test_a_killed_run_goes_on(tmp_path):
    p = network()
    with open_run(tmp_path / "run", {}) as run:
        first = Bayesian("grad_dot", draws=3)(p, run)
        spent = run.cost.fits
        again = Bayesian("grad_dot", draws=3)(p, run)
        assert run.cost.fits == spent == 3
    np.testing.assert_array_equal(first.values, again.values)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(CapabilityError, match="came trained"):
        Bayesian("grad_dot")(network(trained=True))
    with pytest.raises(CapabilityError, match="no pairs"):
        Bayesian("self_influence", draws=2)(network())
    with pytest.raises(SettingError, match="draws=1"):
        Bayesian(draws=1)
    with pytest.raises(SettingError, match="settings without"):
        Bayesian(settings=("damping=1",), draws=2)(network())
    assert "EKFAC" in Bayesian(draws=2)(network()).provenance.resolved["base"]
