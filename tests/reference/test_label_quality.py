"""Label quality against loops over definitions, and on noise that was planted."""

import numpy as np
import pytest
from benchmarks.mislabel import REDUCED, noisy
from sklearn.linear_model import LogisticRegression

from steelyard.collect.folds import held_out_probabilities
from steelyard.data import read
from steelyard.errors import DataError, ShapeError
from steelyard.learners import Sklearn
from steelyard.maths.label_noise import confident_joint, mean_ranks, own_and_other, second_votes, votes
from steelyard.maths.ranks import auc
from steelyard.problem import Problem
from steelyard.run import in_memory
from steelyard.score.label_quality import KNNLabel, LabelConsensus, SelfConfidence

pytestmark = pytest.mark.reference


def planted(count: int = 90, wrong: int = 9) -> tuple[Problem, np.ndarray]:
    draw = np.random.default_rng(4)
    y = np.arange(count) % 3
    x = np.eye(3)[y] * 5 + draw.normal(size=(count, 3))
    labels = y.copy()
    marked = np.zeros(count, dtype=bool)
    marked[draw.choice(count, wrong, replace=False)] = True
    labels[marked] = (labels[marked] + 1) % 3
    train = read({"input": x, "label": labels, "id": np.array([f"r{i:02d}" for i in range(count)])})
    return Problem(Sklearn(LogisticRegression()), train, train.take(slice(0, 1))), marked


def test_second_votes_never_hear_the_example_itself():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 20)
    near = np.array([draw.choice([j for j in range(20) if j != i], 4, replace=False) for i in range(20)])
    expected = np.zeros((20, 3))
    for i in range(20):
        for j in near[i]:
            heard = [labels[k] for k in near[j] if k != i]
            shares = np.array([heard.count(c) / max(1, len(heard)) for c in range(3)])
            sharp = (shares + 1e-3) ** 2
            expected[i] += sharp / sharp.sum() / 4
    found = second_votes(near, labels, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    changed = labels.copy()
    changed[7] = (changed[7] + 1) % 3
    np.testing.assert_allclose(second_votes(near, changed, 3)[7], found[7])
    np.testing.assert_allclose(votes(near, labels, 3)[5], np.bincount(labels[near[5]], minlength=3) / 4)


def test_the_confident_joint_counts_as_the_paper_says():
    draw = np.random.default_rng(1)
    p = draw.dirichlet(np.ones(3), 60)
    labels = np.array([draw.choice(3, p=row) for row in p])
    thresholds = [p[labels == c, c].mean() for c in range(3)]
    counts = np.zeros((3, 3))
    for row, label in zip(p, labels, strict=True):
        above = [c for c in range(3) if row[c] >= thresholds[c]]
        if above:
            counts[label, max(above, key=lambda c: row[c])] += 1
    sizes = np.bincount(labels)
    expected = counts / counts.sum(1, keepdims=True) * sizes[:, None]
    np.testing.assert_allclose(confident_joint(p, labels), expected)


def test_self_confidence_reads_probabilities_of_models_that_did_not_see_the_example():
    p, marked = planted()
    out = held_out_probabilities(p, in_memory(), folds=4, repeats=2)
    labels = p.train.labels()
    own, other = own_and_other(out, labels)
    for quality, expected in (("probability", own), ("margin", own - other)):
        found = SelfConfidence(quality, folds=4, repeats=2)(p)
        np.testing.assert_allclose(found.values[:, 0], expected)
        assert auc(found.harm(), marked).value > 0.99
    entropy = -(out * np.log(out)).sum(1) / np.log(3)
    np.testing.assert_allclose(SelfConfidence("entropy", 4, 2)(p).values[:, 0], own / entropy)
    assert SelfConfidence()(p).provenance.resolved["estimated_errors"] == pytest.approx(9, abs=3)


def test_repeats_average_different_folds():
    p, _ = planted()
    run = in_memory()
    once = held_out_probabilities(p, run, folds=3)
    assert run.cost.fits == 3
    twice = held_out_probabilities(p, run, folds=3, repeats=2)
    assert run.cost.fits == 9
    assert not np.allclose(2 * twice - once, once)


def test_neighbours_are_others():
    p, marked = planted()
    x, labels = np.asarray(p.train.input()[:]), p.train.labels()
    expected = np.zeros(90)
    for i in range(90):
        order = np.argsort(((x - x[i]) ** 2).sum(1))
        heard = labels[[j for j in order if j != i][:6]]
        shares = np.bincount(heard, minlength=3) / 6
        expected[i] = shares[labels[i]] - max(shares[c] for c in range(3) if c != labels[i])
    found = KNNLabel(6, hops=1, embedding="inputs")(p)
    np.testing.assert_allclose(found.values[:, 0], expected)
    assert auc(KNNLabel(6)(p).harm(), marked).value > 0.99


def test_many_copies_of_an_example_do_not_hide_it():
    x = np.zeros((12, 2))
    p = Problem(Sklearn(LogisticRegression()), (x, np.arange(12) % 2), (x[:1], np.array([0])))
    found = KNNLabel(3)(p)
    assert np.isfinite(found.values).all()


def test_the_consensus_is_the_mean_rank_and_says_who_was_left_out():
    p, marked = planted()
    found = LabelConsensus(repeats=1)(p)
    facts = found.provenance.resolved
    assert facts["witnesses"] == ["self_confidence", "knn_label"]
    assert "LogisticRegression" in facts["left_out"]["aum"]
    parts = np.stack([SelfConfidence()(p).harm(), KNNLabel()(p).harm()])
    np.testing.assert_allclose(found.values[:, 0], mean_ranks(parts))
    assert auc(found.harm(), marked).value > 0.99
    np.testing.assert_allclose(mean_ranks(np.array([[1.0, 1.0, 5.0], [3.0, 2.0, 1.0]])), [0.625, 0.375, 0.5])


def test_a_single_class_has_no_wrong_labels():
    x = np.eye(4)
    with pytest.raises(DataError, match="all 4 labels"):
        KNNLabel()(Problem(Sklearn(LogisticRegression()), (x, np.zeros(4, int)), (x, np.zeros(4, int))))
    with pytest.raises(ShapeError):
        own_and_other(np.ones((2, 1)), np.zeros(2, int))


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_noise_on_digits_is_found(kind):
    """A small version of ``benchmarks.mislabel``, on a draw that it does not use."""
    given = noisy(kind, 100, REDUCED)
    assert auc(LabelConsensus(repeats=1, seeds=1)(given.problem).harm(), given.wrong).value > 0.95
