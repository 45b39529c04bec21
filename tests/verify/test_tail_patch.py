"""One step on proponents, on a network: the effect is the gradients' product, and the model stays as it was."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from steelyard import score
from steelyard.collect.fits import explained
from steelyard.collect.steps import step_gains
from steelyard.errors import CapabilityError, SettingError
from steelyard.learners import SGD, Torch
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run
from steelyard.verify import tail_patch
from tests.problems import ridge_problem, scores_of


def problem(measurement: str = "loss") -> Problem:
    draw = np.random.default_rng(0)

    def some(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = draw.normal(size=(count, 6)).astype(np.float32)
        return x, (x[:, 0] + x[:, 1] > 0).astype(int) + (x[:, 2] > 0.5)

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    learner = Torch(net, recipe=SGD(lr=0.1, epochs=2), start="given", measurement=measurement)
    return Problem(learner, some(80), some(6))


@pytest.mark.parametrize("measurement", ["loss", "margin"])
def test_a_small_step_changes_queries_as_the_product_of_gradients_says(measurement):
    given, run = problem(measurement), in_memory()
    model = explained(given, run)
    groups = [np.array([3]), np.array([1, 5, 9])]
    found = step_gains(given, model, groups, 1e-4, run)
    engine = given.learner.gradients(model)
    products, g = engine.products(given.train, engine.prepare(given.query)), engine.dense(given.train)
    size = np.sqrt(sum(float((p.detach() ** 2).sum()) for p in engine.model.parameters()))
    for i, rows in enumerate(groups):
        expected = 1e-4 * size * products[rows].sum(0) / np.linalg.norm(g[rows].sum(0))
        np.testing.assert_allclose(found[i], expected, rtol=0.02, atol=3e-6)


def test_the_model_is_as_it_was_to_the_bit():
    given, run = problem(), in_memory()
    model = explained(given, run)
    before = {name: value.clone() for name, value in given.learner.load(model).state_dict().items()}
    step_gains(given, model, [np.array([0, 1])], 0.1, run)
    after = given.learner.load(model).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradient_products_are_confirmed_and_upside_down_refuted():
    given = problem()
    scores = score.GradDot()(given)
    found = tail_patch(given, scores, top=4)
    assert found.verdict == "confirmed" and found.estimate > found.control["estimate"]
    turned = tail_patch(given, scores_of(given, -np.asarray(scores.values)), top=4)
    assert turned.verdict == "refuted"
    assert found.provenance.cost.fits == 1 and len(found.table["proponents"]) == 6


def test_random_scores_are_seldom_confirmed():
    given, draw, run = problem(), np.random.default_rng(1), in_memory()
    found = [
        tail_patch(given, scores_of(given, draw.normal(size=(80, 6))), top=3, run=run).verdict
        for _ in range(12)
    ]
    assert found.count("confirmed") <= 3


def test_steps_are_kept(tmp_path):
    given = problem()
    scores = score.GradDot()(given)
    with open_run(tmp_path / "run", {"test": 1}, show="quiet") as run:
        first = tail_patch(given, scores, run=run)
        spent = run.cost.gradients
        assert tail_patch(given, scores, run=run).estimate == first.estimate
        assert run.cost.gradients == spent


def test_settings_and_learners_without_meaning_are_refused():
    given = problem()
    with pytest.raises(SettingError, match="tail_patch"):
        tail_patch(given, score.GradDot()(given), top=0)
    ridge = ridge_problem()
    with pytest.raises(CapabilityError):
        tail_patch(ridge, scores_of(ridge, np.random.default_rng(0).normal(size=(40, 6))))
