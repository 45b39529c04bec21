"""GOT-D against removing mass by hand, MeritFed against finite differences and a planted source."""

import numpy as np
import pytest
from scipy.optimize import linprog

from steelyard.act.got_d import GOTD, apart, pulls
from steelyard.act.meritfed import MeritFed, drawn, slopes
from steelyard.collect.fits import explained
from steelyard.collect.sandbox import Sandbox
from steelyard.errors import DataError, SettingError
from steelyard.problem import Problem
from steelyard.run import in_memory
from tests.reference.test_untrac import problem

pytestmark = [pytest.mark.reference, pytest.mark.systems]


def distance(have: np.ndarray, want: np.ndarray, mass: np.ndarray) -> float:
    """Optimal-transport distance with any masses on one side, by the textbook linear programme."""
    costs = np.linalg.norm(have[:, None] - want[None], axis=2)
    n, m = costs.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    ends = np.concatenate([mass, np.full(m, 1 / m)])
    return float(linprog(costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=ends, method="highs").fun)


def test_the_pull_of_an_example_is_how_fast_the_distance_falls_with_its_mass():
    draw = np.random.default_rng(0)
    have, want = draw.normal(size=(7, 2)), draw.normal(size=(5, 2)) + 1.0
    found, plain, step = pulls(have, want), np.full(7, 1 / 7), 1e-6
    for i in range(7):
        move = np.full(7, -1 / 6)
        move[i] = 1.0
        slope = (distance(have, want, plain + step * move) - distance(have, want, plain)) / step
        assert found[i] == pytest.approx(-slope, rel=1e-3, abs=1e-6)


def test_examples_near_a_far_target_are_kept_and_its_distance_is_noticed():
    p = problem()
    names = p.train.column("source")[:].astype(str)
    plan = GOTD(embedding="inputs")(p, 12, 0, in_memory())
    kept = plan.weights_for(p.train) > 0
    assert kept.sum() == 12 and not (names[kept] == "c").any(), "queries lie where source a does"
    assert not plan.provenance.notes
    order = np.random.default_rng(0).permutation(48)
    turned = GOTD(embedding="inputs")(Problem(p.learner, p.train.take(order), p.query), 12, 0, in_memory())
    assert set(turned.ids) == set(plan.ids)


def test_a_target_like_the_training_set_is_called_no_signal():
    draw = np.random.default_rng(1)
    have = draw.normal(size=(80, 3))
    same = [apart(have, draw.normal(size=(30, 3)), np.random.default_rng(k)) for k in range(12)]
    assert sum("no signal" in note for note in same) >= 9
    assert apart(have, draw.normal(size=(30, 3)) + 2.0, np.random.default_rng(0)) == ""
    assert "too few" in apart(have, have[:1], draw)


@pytest.mark.parametrize("measurement", ["loss", "margin"])
def test_slopes_of_source_weights_are_derivatives_of_the_target_after_the_step(measurement):
    p, lr = problem(measurement), 0.4
    box = Sandbox(p, explained(p, in_memory()), in_memory(), method="test")
    names = p.train.column("source")[:].astype(str)
    downs = [box.gradient(p.train.take(np.flatnonzero(names == name))) for name in "abc"]
    weights = np.array([0.2, 0.5, 0.3])

    def after(w: np.ndarray) -> float:
        with box.put_back():
            box.move(sum(float(a) * g for a, g in zip(w, downs, strict=True)), -lr)
            return (1.0 if measurement == "loss" else -1.0) * float(box.measured(p.query).mean())

    wanted = [(after(weights + e) - after(weights - e)) / 2e-5 for e in 1e-5 * np.eye(3)]
    np.testing.assert_allclose(slopes(box, p, downs, weights, lr), wanted, rtol=1e-5, atol=1e-8)


def test_the_harmful_source_loses_its_weight_and_the_useful_one_gains():
    p = problem(trained=False)
    plan = MeritFed(steps=30)(p, 15, 0, in_memory())
    course = plan.provenance.resolved["course"]
    assert set(course) == {"a", "b", "c"} and len(course["a"]) == 30
    np.testing.assert_allclose(np.sum(list(course.values()), axis=0), 1.0)
    assert course["c"][-1] < 1 / 3 < max(course["a"][-1], course["b"][-1])
    assert plan.weights_for(p.train).sum() == 15 and plan.action == "keep"
    assert plan.provenance.resolved["sources"]["c"] == min(plan.provenance.resolved["sources"].values())


def test_the_budget_is_drawn_by_weight_and_never_more_than_there_is():
    number = np.repeat([0, 1, 2], [4, 50, 50])
    ids = np.array([f"r{i:03d}" for i in range(104)])
    chosen = drawn(np.array([0.8, 0.2, 0.0]), number, 30, ids, np.random.default_rng(0))
    assert np.bincount(number, chosen).tolist() == [4, 26, 0]
    chosen = drawn(np.array([0.8, 0.2, 0.0]), number, 60, ids, np.random.default_rng(0))
    assert np.bincount(number, chosen).tolist() == [4, 50, 6]


def test_bad_sources_are_told():
    p = problem()
    with pytest.raises(SettingError, match="no column 'origin'"):
        MeritFed(column="origin")(p, 10, 0, in_memory())
    names = p.train.column("source")[:].astype("U9")
    names[0] = "lonely"
    with pytest.raises(DataError, match="'lonely' has a single example"):
        MeritFed()(Problem(p.learner, p.train.with_column("source", names, "t"), p.query), 10, 0, in_memory())
    names[:] = "all"
    with pytest.raises(SettingError, match="the one source 'all'"):
        MeritFed()(Problem(p.learner, p.train.with_column("source", names, "u"), p.query), 10, 0, in_memory())
    with pytest.raises(SettingError, match="rate=0"):
        MeritFed(rate=0)
