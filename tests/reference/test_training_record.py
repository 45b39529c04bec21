"""Scores from the training record against loops over checkpoints, autograd and definitions written out."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import nn

from steelyard.collect.dynamics import curves, training_seed
from steelyard.data import read
from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.learners import SGD, Sklearn, Torch
from steelyard.learners.sklearn_fit import seeded
from steelyard.problem import Problem
from steelyard.records import Examples
from steelyard.run import in_memory, open_run
from steelyard.score.aum import AUM, threshold_samples
from steelyard.score.dynamics import EL2N, Cartography, Forgetting, GraNd

pytestmark = pytest.mark.reference
EPOCHS = 4


def data(*, text: bool = False) -> tuple[Examples, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    y = np.arange(45) % 3
    x = (np.eye(3)[y] * 2 + draw.normal(size=(45, 3))).astype(np.float32)
    labels = np.array(["ant", "bee", "cow"])[y] if text else y
    return read({"input": x, "label": labels, "id": np.array([f"r{i:02d}" for i in range(45)])}), x, y


def learner(checkpoints: tuple[int, ...] = (), *, dropout: float = 0.0) -> Torch:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3))
    recipe = SGD(lr=0.3, epochs=EPOCHS, batch_size=10, momentum=0.5, checkpoints=checkpoints)
    return Torch(net, recipe=recipe)


def problem(*, text: bool = False) -> Problem:
    train, _, _ = data(text=text)
    return Problem(learner(), train, train.take(slice(0, 2)), seed=5)


def by_checkpoints() -> tuple[Torch, list, Examples, np.ndarray]:
    train, _, y = data()
    other = learner(tuple(range(1, EPOCHS + 1)))
    fitted = other.fit(train, seed=5)
    return other, [point for point, _ in other.checkpoints(fitted)], train, y


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_following_a_training_changes_nothing(dropout):
    train, _, _ = data()
    taught, seen = learner(dropout=dropout), []

    def watch(epoch, fitted):
        torch.rand(epoch)  # whoever looks may draw numbers
        seen.append((epoch, taught.measure(fitted, train)))

    followed = taught.follow(train, watch, seed=5)
    plain = taught.fit(train, seed=5)
    for name, value in plain.parameters.items():
        assert torch.equal(value, followed.parameters[name])
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4]
    np.testing.assert_array_equal(seen[-1][1], taught.measure(plain, train))


def test_curves_are_what_checkpoints_say():
    other, points, train, y = by_checkpoints()
    found = curves(problem(), in_memory(), seed=5, method="test")
    for epoch, point in enumerate(points):
        p = other.probabilities(point, train)
        for i in range(len(train)):
            rest = [p[i, c] for c in range(3) if c != y[i]]
            assert found.own[epoch, i] == pytest.approx(np.log(p[i, y[i]]), rel=1e-5)
            assert found.other[epoch, i] == pytest.approx(np.log(max(rest)), rel=1e-5)
            assert found.error[epoch, i] == pytest.approx(np.linalg.norm(p[i] - np.eye(3)[y[i]]), rel=1e-5)


def test_scores_are_their_definitions():
    other, points, train, y = by_checkpoints()
    probabilities = np.stack([other.probabilities(point, train) for point in points])
    own = probabilities[:, np.arange(45), y]
    error = np.linalg.norm(probabilities - np.eye(3)[y], axis=2)
    right = probabilities.argmax(2) == y
    p = problem()
    np.testing.assert_allclose(EL2N()(p).values[:, 0], error.mean(0), rtol=1e-5)
    np.testing.assert_allclose(EL2N(epoch=2)(p).values[:, 0], error[1], rtol=1e-5)
    np.testing.assert_allclose(Cartography()(p).values[:, 0], own.mean(0), rtol=1e-5)
    np.testing.assert_allclose(Cartography("variability")(p).values[:, 0], own.std(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(Cartography("correctness")(p).values[:, 0], right.mean(0))
    np.testing.assert_allclose(Cartography("loss")(p).values[:, 0], -np.log(own).mean(0), rtol=1e-5)
    events = [sum(right[t, i] and not right[t + 1, i] for t in range(3)) for i in range(45)]
    never = ~right.any(0)
    np.testing.assert_array_equal(Forgetting()(p).values[:, 0], np.where(never, EPOCHS, events))
    late = [next((t + 1 for t in range(3) if right[t : t + 2, i].all()), 5) for i in range(45)]
    np.testing.assert_array_equal(Forgetting(count="learned", consecutive=2)(p).values[:, 0], late)


def test_aum_is_the_mean_margin_of_logits():
    other, points, train, y = by_checkpoints()
    expected = np.zeros(45)
    for point in points:
        with torch.no_grad():
            logits = other.load(point)(torch.from_numpy(np.asarray(train.input()[:]))).numpy()
        for i in range(45):
            expected[i] += (logits[i, y[i]] - max(logits[i, c] for c in range(3) if c != y[i])) / EPOCHS
    np.testing.assert_allclose(AUM(threshold="none")(problem()).values[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_grand_is_the_length_of_the_gradient():
    other, points, train, y = by_checkpoints()
    lengths = np.zeros((2, 45))
    for epoch, point in enumerate(points[:2]):
        net = other.load(point)
        for i, (row, label) in enumerate(zip(np.asarray(train.input()[:]), y, strict=True)):
            loss = nn.functional.cross_entropy(net(torch.from_numpy(row)[None]), torch.tensor([label]))
            parts = torch.autograd.grad(loss, list(net.parameters()))
            lengths[epoch, i] = torch.cat([part.flatten() for part in parts]).norm()
    np.testing.assert_allclose(GraNd(epochs=2)(problem()).values[:, 0], lengths.mean(0), rtol=1e-4)


def test_several_trainings_are_averaged():
    p = problem()
    one = [curves(p, in_memory(), seed=training_seed(p, k), method="test").error.mean(0) for k in range(3)]
    np.testing.assert_allclose(EL2N(seeds=3)(p).values[:, 0], np.mean(one, 0), rtol=1e-6)
    assert not np.array_equal(one[0], one[1])


@pytest.mark.parametrize("text", [False, True])
def test_threshold_samples_get_a_class_of_their_own(text):
    p = problem(text=text)
    fake = threshold_samples(p, 4)
    assert fake.sum(1).tolist() == [11, 11, 11, 11]  # 45 / (3 + 1)
    assert not (fake[0] & fake[1]).any() and not (fake[2] & fake[3]).any()
    found = AUM(threshold="class")(p)
    facts = found.provenance.resolved
    assert facts["below_threshold"] == int((found.values < facts["threshold"]).sum())
    # By hand: the learner with four classes, on the labels with the fake class.
    wide, label = p.learner.with_extra_class(p.train)
    assert label == ("cow+" if text else 3)
    assert wide.settings()["parameters"] == 24 + 28
    labels = np.where(fake[0], label, p.train.labels())
    given = read({"input": np.asarray(p.train.input()[:]), "label": labels, "id": p.train.ids})
    by_hand = curves(Problem(wide, given, given, seed=5), in_memory(), seed=5, method="test")
    only_first = ~fake[0] & fake[1]
    np.testing.assert_allclose(
        found.values[only_first, 0], by_hand.margin.mean(0)[only_first], rtol=1e-5, atol=1e-6
    )


def test_a_threshold_falls_between_wrong_and_right_labels():
    train, x, y = data()
    draw = np.random.default_rng(3)
    x = np.concatenate([np.eye(3)[y] * 6 + draw.normal(size=(45, 3)) for _ in range(4)]).astype(np.float32)
    labels = np.tile(y, 4)
    wrong = draw.choice(180, 18, replace=False)
    labels[wrong] = (labels[wrong] + 1) % 3
    p = Problem(learner(), read((x, labels)), read((x[:1], labels[:1])))
    found = AUM()(p)
    below = np.flatnonzero(found.values[:, 0] < found.provenance.resolved["threshold"])
    assert len(set(below) & set(wrong)) >= 14
    assert len(below) <= 30


def test_scikit_learn_is_followed_pass_by_pass_and_tree_by_tree():
    train, x, y = data()
    p = Problem(Sklearn(MLPClassifier((4,), max_iter=3)), train, train, seed=5)
    found = curves(p, in_memory(), seed=5, method="test")
    by_hand = seeded(MLPClassifier((4,), max_iter=3), 5)
    for epoch in range(3):
        by_hand.partial_fit(x, y, classes=np.arange(3))
        own = by_hand.predict_proba(x)[np.arange(45), y]
        np.testing.assert_allclose(np.exp(found.own[epoch]), own, rtol=1e-5)
    boosted = Problem(Sklearn(GradientBoostingClassifier(n_estimators=4)), train, train)
    found = curves(boosted, in_memory(), seed=0, method="test")
    whole = boosted.learner.fit(train, seed=0).estimator
    for epoch, stage in enumerate(whole.staged_predict_proba(x)):
        np.testing.assert_allclose(np.exp(found.own[epoch]), stage[np.arange(45), y], rtol=1e-5)


def test_what_cannot_be_followed_says_what_to_use(tmp_path):
    train, x, y = data()
    logistic = Problem(Sklearn(LogisticRegression()), train, train)
    with pytest.raises(CapabilityError, match="self_confidence"):
        EL2N()(logistic)
    with pytest.raises(CapabilityError, match="came trained"):
        EL2N()(Problem(Torch(nn.Linear(3, 3), trained=True), train, train))
    with pytest.raises(DataError, match="whole number"):
        EL2N()(
            Problem(
                Torch(nn.Linear(3, 3), recipe=SGD(lr=0.1, epochs=1)), read((x, y + 0.5)), read((x, y + 0.5))
            )
        )
    with pytest.raises(SettingError, match="epoch=9"):
        EL2N(epoch=9)(problem())
    with pytest.raises(SettingError, match="seeds=0"):
        AUM(seeds=0)


def test_a_run_folder_keeps_the_record(tmp_path):
    with open_run(tmp_path / "run", {}) as run:
        first = EL2N()(problem(), run)
        spent = run.cost.fits
        again = Cartography()(problem(), run)
        assert run.cost.fits == spent == 1
    assert first.provenance.cost.fits == 1 and again.provenance.cost.fits == 0
