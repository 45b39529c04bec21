"""Probes against steps taken by hand, ridge against scikit-learn, and surrogates on planted influence."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from torch import nn

from steelyard import act, flow
from steelyard.collect.probing import probe_groups
from steelyard.data import read
from steelyard.errors import CapabilityError, SettingError, ShapeError
from steelyard.learners import SGD, Sklearn, Torch
from steelyard.maths.surrogate import agreement, fit_ridge, folds_of, greedy_relational, gumbel_top_k
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run
from steelyard.score.gradient_products import GradDot
from steelyard.score.mates import MATES, GroupMATES, before, fit_redundancy
from steelyard.score.nn_cift import NNCIFT, Side, paired
from tests.problems import additive_problem, additive_truth, scores_of

pytestmark = pytest.mark.reference


def network(count: int = 120, *, measurement: str = "loss", checkpoints: int = 0) -> Problem:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count + 12, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.int64) + (x[:, 2] > 1)
    data = read({"input": x, "label": y, "id": np.array([f"r{i:03d}" for i in range(len(x))])})
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    recipe = SGD(lr=0.1, epochs=3, batch_size=16, checkpoints=checkpoints)
    learner = Torch(net, recipe=recipe, measurement=measurement)
    return Problem(learner, data.take(slice(0, count)), data.take(slice(count, None)))


@pytest.mark.parametrize(("measurement", "sign"), [("loss", -1.0), ("margin", 1.0)])
def test_probes_are_steps_taken_by_hand(measurement, sign):
    p = network(measurement=measurement)
    fitted = p.learner.fit(p.train)
    groups = [np.array([3, 7, 5]), np.array([9, 9, 1])]
    found = probe_groups(p, fitted, groups, in_memory(), rate=0.2, method="test")
    for group, gains in zip(groups, found, strict=True):
        net = copy.deepcopy(p.learner.load(fitted))
        asked = next(iter(p.learner.batches(p.query, 100)))
        last = p.learner.measurement_function(net, asked).detach().numpy()
        for row, gain in zip(group, gains, strict=True):
            batch = next(iter(p.learner.batches(p.train.take(np.array([row])), 1)))
            net.zero_grad()
            p.learner.loss_function(net, batch).sum().backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.2 * parameter.grad
            now = p.learner.measurement_function(net, asked).detach().numpy()
            np.testing.assert_allclose(gain, sign * (now - last), atol=1e-12)
            last = now
    again = p.learner.measure(fitted, p.query)
    np.testing.assert_array_equal(again, p.learner.measure(p.learner.fit(p.train), p.query))


def test_small_steps_are_gradient_products():
    p = network()
    fitted = p.learner.fit(p.train)
    found = probe_groups(p, fitted, [np.array([i]) for i in range(10)], in_memory(), rate=1e-6, method="test")
    np.testing.assert_allclose(found[:, 0] / 1e-6, GradDot()(p).values[:10], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("width", [5, 60])
def test_ridge_is_that_of_scikit_learn(width):
    draw = np.random.default_rng(1)
    x = draw.normal(size=(40, width)) * draw.random(width) + 3
    y = x[:, :2] @ draw.normal(size=(2, 3)) + 0.1 * draw.normal(size=(40, 3))
    fold = folds_of(40, draw)
    assert np.bincount(fold).tolist() == [8] * 5
    found = fit_ridge(x, y, fold)
    for output in range(3):
        z = (x - x.mean(0)) / x.std(0)
        gram = z @ z.T if width > 40 else z.T @ z
        penalty = found.penalty[output] * np.linalg.eigvalsh(gram).mean()
        twin = SklearnRidge(alpha=penalty).fit(z, y[:, output])
        np.testing.assert_allclose(found.predict(x)[:, output], twin.predict(z), atol=1e-6)
    for k in range(5):
        rest = fold != k
        centre, scale = x[rest].mean(0), x[rest].std(0)
        z = (x - centre) / scale
        gram = z[rest] @ z[rest].T if width > 32 else z[rest].T @ z[rest]
        alpha = found.penalty[0] * np.linalg.eigvalsh(gram).mean()
        twin = SklearnRidge(alpha=alpha).fit(z[rest], y[rest, 0])
        np.testing.assert_allclose(found.held_out[~rest, 0], twin.predict(z[~rest]), atol=1e-6)
    with pytest.raises(ShapeError, match="at least 10"):
        fit_ridge(x[:5], y[:5], fold[:5])


def test_held_out_agreement_of_noise_is_nothing():
    draw = np.random.default_rng(2)
    found = fit_ridge(draw.normal(size=(200, 20)), draw.normal(size=(200, 4)), folds_of(200, draw))
    told = agreement(found.held_out, draw.normal(size=(200, 4)))
    assert abs(told["spearman_of_means"]) < 0.25
    assert agreement(np.ones((9, 2)), draw.normal(size=(9, 2))) == {
        "spearman_of_means": None,
        "mean_spearman_per_query": None,
    }


def test_mates_predicts_steps_that_were_not_taken():
    p = network(240)
    found = MATES(share=0.4, rate=0.05)(p)
    told = found.provenance.resolved
    assert told["probed"] == 96 and told["share_of_probes_saved"] == pytest.approx(0.6)
    fitted = p.learner.fit(p.train)
    truth = probe_groups(p, fitted, [np.array([i]) for i in range(240)], in_memory(), rate=0.05, method="t")[
        :, 0
    ]
    real = agreement(np.asarray(found.values), truth)
    assert real["mean_spearman_per_query"] > 0.9
    # What the record says of held-out probes is what is found for examples that were never probed.
    assert abs(told["held_out"][0]["mean_spearman_per_query"] - real["mean_spearman_per_query"]) < 0.1
    assert np.corrcoef(np.asarray(found.values).ravel(), truth.ravel())[0, 1] > 0.9


def test_mates_is_fitted_anew_at_every_stage():
    p = network(60, checkpoints=3)
    found = MATES(stages=3, share=0.5)(p)
    assert len(found.provenance.resolved["held_out"]) == 3
    one = MATES(share=0.5)(p)
    assert not np.allclose(found.values, one.values)
    assert one.provenance.resolved["rate"] == 0.1  # the recipe's
    with pytest.raises(SettingError, match="kept 3 states"):
        MATES(stages=4)(p)


def test_relations_explain_groups_that_repeat_themselves():
    draw = np.random.default_rng(3)
    own = draw.random((30, 6, 2)) + 0.5
    vectors = draw.normal(size=(30, 6, 4))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    related = np.stack([before(group) for group in vectors])
    assert related[0, 2] == pytest.approx(vectors[0, 2] @ vectors[0, :2].sum(0))
    gains = own * (1 - np.array([0.3, 0.1]) * related[:, :, None])
    np.testing.assert_allclose(fit_redundancy(own, related, gains), [0.3, 0.1])


def test_group_mates_on_a_network():
    p = network(80)
    found = GroupMATES(groups=20, size=4, share=0.5, rate=0.5)(p)
    told = found.provenance.resolved
    assert told["relations_used"] == (told["held_out_groups_error_ratio"] < 1)
    if not told["relations_used"]:
        np.testing.assert_allclose(found.values, MATES(share=0.5, rate=0.5)(p).values, rtol=1e-6)
    assert np.isfinite(found.values).all()


def copies() -> Problem:
    kind = np.arange(160) % 8
    x = np.eye(8, dtype=np.float32)[kind]
    data = read({"input": x, "label": kind, "id": [f"c{i:03d}" for i in range(160)]})
    learner = Torch(nn.Linear(8, 8).double(), recipe=SGD(lr=0.01, epochs=1, batch_size=32))
    return Problem(learner, data, data.take(np.arange(8)))


def test_relations_win_where_groups_hold_copies():
    """Eight kinds of examples in many copies: what a kind teaches is taught once, so a sum of own gains misleads."""
    told = GroupMATES(groups=60, size=8, share=1, rate=0.5)(copies()).provenance.resolved
    assert told["relations_used"]
    assert told["held_out_groups_error_ratio"] < 0.5
    assert told["redundancy"] > 0
    relational, plain = told["held_out_groups_relational"], told["held_out_groups_plain_sum"]
    assert relational["spearman_of_means"] > plain["spearman_of_means"] + 0.1


def test_select_by_group_mates_keeps_some_of_every_kind_where_the_best_by_themselves_are_copies_of_few():
    p = copies()
    method = GroupMATES(groups=60, size=8, share=1, rate=0.5)
    kept = {}
    for name, asked in (("set", method), ("best", MATES(share=1, rate=0.5))):
        plan = flow.select(p, method=asked, count=40).plans[0]
        assert len(plan) == 40
        kept[name] = len(np.unique(p.train.labels()[p.train.positions(plan.ids)]))
    assert kept["best"] <= 3 and kept["set"] == 8
    rows = method.choose(p, 8)[1]
    with pytest.raises(ShapeError, match="each row once"):
        act.keep(method(p), count=3, order=rows[[0, 0, 1]])


def test_greedy_choice_passes_over_repetitions():
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    own = np.array([[1.0], [0.9], [0.5]])
    assert greedy_relational(own, vectors, 2, redundancy=np.zeros(1)).tolist() == [0, 1]
    assert greedy_relational(own, vectors, 2, redundancy=np.full(1, 0.8)).tolist() == [0, 2]


def test_gumbel_draws_in_proportion_to_exp_of_the_score():
    draw = np.random.default_rng(4)
    scores = np.array([0.0, 1.0, 2.0, -1.0])
    standard = (scores - scores.mean()) / scores.std()
    chances = np.exp(standard / 0.7) / np.exp(standard / 0.7).sum()
    first = [gumbel_top_k(scores, 1, temperature=0.7, draw=draw)[0] for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(first, minlength=4) / 4000, chances, atol=0.03)
    assert gumbel_top_k(scores, 4, temperature=1e-9, draw=draw).tolist() == [2, 1, 0, 3]


def test_a_drawn_plan_keeps_distinct_helpful_examples_whatever_the_order_of_rows():
    p = additive_problem(40, 3)
    scores = scores_of(p, additive_truth(p))
    plan = act.draw(scores, count=15, seed=2)
    assert plan.action == "keep" and len(set(plan.ids.tolist())) == 15
    order = np.random.default_rng(0).permutation(40)
    shuffled = replace(scores, values=scores.values[order], train_ids=scores.train_ids[order])
    assert act.draw(shuffled, count=15, seed=2).ids.tolist() == plan.ids.tolist()
    best = act.draw(scores, count=15, temperature=1e-9).ids
    assert set(best.tolist()) == set(act.keep(scores, count=15).ids.tolist())
    with pytest.raises(SettingError, match="temperature=0"):
        act.draw(scores, count=3, temperature=0)


def test_a_network_on_pairs_learns_a_method_from_a_share_of_its_rows():
    p = network(300)
    found = NNCIFT("grad_dot", share=0.4)(p)
    truth = np.asarray(GradDot()(p).values, dtype=np.float64)
    real = agreement(np.asarray(found.values), truth)["mean_spearman_per_query"]
    told = found.provenance.resolved
    assert real > 0.7
    assert abs(told["held_out"]["mean_spearman_per_query"] - real) < 0.25
    assert told["share_of_base_saved"] == pytest.approx(0.6)
    assert found.unit == "rank" and "GradDot" in told["base"]


def test_pairs_are_laid_out_row_by_row():
    train = Side(np.array([[1.0], [2.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]), np.diag([1.0, 0.5]))
    query = Side(
        np.array([[3.0], [4.0]]), np.array([[7.0, 8.0], [9.0, 6.0]]), np.array([[2.0, 2.0], [4.0, 4.0]])
    )
    assert paired(train, query).tolist() == [
        [1, 3, 3, 7, 2],
        [1, 4, 4, 9, 4],
        [2, 3, 6, 8, 1],
        [2, 4, 8, 6, 2],
    ]
    assert paired(train.take(np.array([1])), query).tolist() == [[2, 3, 6, 8, 1], [2, 4, 8, 6, 2]]


def test_a_run_folder_keeps_the_probes(tmp_path):
    p = network(40)
    with open_run(tmp_path / "run", {}) as run:
        first = MATES()(p, run)
        steps = run.cost.gradients
        again = MATES()(p, run)
        assert run.cost.gradients - steps < steps / 2
    np.testing.assert_array_equal(first.values, again.values)


def test_what_has_no_steps_or_rows_says_what_to_use():
    x, y = np.eye(4), np.array([0, 1, 0, 1])
    with pytest.raises(CapabilityError, match="leave_one_out"):
        MATES()(Problem(Sklearn(LogisticRegression()), (x, y), (x, y)))
    with pytest.raises(CapabilityError, match="all at once"):
        NNCIFT("knn_shapley")(network(40))
    with pytest.raises(SettingError, match="share=0"):
        MATES(share=0)
    with pytest.raises(SettingError, match="groups=2"):
        GroupMATES(groups=2)
