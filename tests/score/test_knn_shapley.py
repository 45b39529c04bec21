"""kNN-Shapley as a method: embeddings, weights, run folder, provenance."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steelyard.data import read
from steelyard.errors import CapabilityError, SettingError
from steelyard.learners.sklearn import Sklearn
from steelyard.problem import Problem
from steelyard.run import open_run
from steelyard.score.knn_shapley import KNNShapley


def _problem(rows: int = 60, queries: int = 40, estimator=None) -> Problem:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows + queries, 3)) * np.array([1.0, 10.0, 0.1])
    y = (x[:, 0] > 0).astype(int)
    learner = Sklearn(estimator or make_pipeline(StandardScaler(), LogisticRegression()))
    return Problem(learner, read((x[:rows], y[:rows])), read((x[rows:], y[rows:])))


def test_values_of_a_query_add_up_to_the_vote_for_its_label() -> None:
    problem = _problem()
    scores = KNNShapley(neighbours=7)(problem)
    assert scores.unit == "accuracy" and scores.values.shape == (60, 40)
    fitted = problem.learner.explained(problem.train)
    train, query = (problem.learner.embed(fitted, side) for side in (problem.train, problem.query))
    voter = KNeighborsClassifier(7).fit(train, problem.train.labels())
    votes = voter.predict_proba(query)[np.arange(40), problem.query.labels()]
    np.testing.assert_allclose(scores.values.sum(axis=0), votes, atol=1e-5)
    assert scores.provenance.resolved["embedding"].startswith("learner")


def test_flipped_labels_have_the_lowest_values() -> None:
    problem = _problem(rows=200, queries=100)
    labels = problem.train.labels().copy()
    flipped = np.random.default_rng(1).choice(200, 20, replace=False)
    labels[flipped] = 1 - labels[flipped]
    noisy = Problem(problem.learner, problem.train.with_column("label", labels, "noisy"), problem.query)
    harm = KNNShapley()(noisy).harm()
    assert roc_auc_score(np.isin(np.arange(200), flipped), harm) > 0.9


def test_examples_of_weight_zero_are_absent() -> None:
    problem = _problem()
    weights = np.ones(60)
    weights[[0, 7, 59]] = 0.0
    weighted = problem.train.with_column("weight", weights, "weighted")
    values = KNNShapley(embedding="inputs")(Problem(problem.learner, weighted, problem.query)).values
    rest = problem.train.take(np.flatnonzero(weights))
    expected = KNNShapley(embedding="inputs")(Problem(problem.learner, rest, problem.query)).values
    np.testing.assert_array_equal(values[weights == 0], 0.0)
    np.testing.assert_array_equal(values[weights == 1], expected)
    half = problem.train.with_column("weight", np.full(60, 0.5), "half")
    notes = KNNShapley()(Problem(problem.learner, half, problem.query)).provenance.notes
    assert any("one vote" in note for note in notes)


def test_the_metric_and_the_embedding_matter_and_scale_does_not_for_the_cosine() -> None:
    problem = _problem()
    learner, inputs = (KNNShapley(embedding=source)(problem).values for source in ("learner", "inputs"))
    assert (learner != inputs).any()
    scaled = problem.train.with_column("input", np.asarray(problem.train.input()[:]) * 3.0, "scaled")
    moved = Problem(problem.learner, scaled, problem.query)
    cosine = KNNShapley(embedding="inputs", metric="cosine")
    np.testing.assert_array_equal(cosine(moved).values, cosine(problem).values)
    euclidean = KNNShapley(embedding="inputs")
    assert (euclidean(moved).values != euclidean(problem).values).any()


def test_a_run_folder_gives_the_same_bits_and_does_not_fit_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("steelyard.score.knn_shapley._PART_BYTES", 4 * 60 * 16)
    problem = _problem()
    whole = KNNShapley()(problem).values
    with open_run(tmp_path / "run", {"method": "knn_shapley"}, show="quiet") as run:
        first = KNNShapley()(problem, run)
    np.testing.assert_array_equal(first.values, whole)
    monkeypatch.setattr(Sklearn, "fit", lambda *args, **kwargs: pytest.fail("a fit was repeated"))
    monkeypatch.setattr(Sklearn, "check", lambda *args, **kwargs: ())
    with open_run(tmp_path / "run", {"method": "knn_shapley"}, show="quiet") as run:
        again = KNNShapley()(problem, run)
    np.testing.assert_array_equal(again.values, whole)
    assert again.provenance.resolved == first.provenance.resolved


def test_what_it_cannot_do_is_refused_with_an_alternative() -> None:
    rng = np.random.default_rng(0)
    targets = read((rng.standard_normal((20, 2)), rng.standard_normal(20)))
    with pytest.raises(CapabilityError, match="leave_one_out"):
        KNNShapley()(Problem(Sklearn(Ridge()), targets, targets))
    with pytest.raises(SettingError, match="at least 1"):
        KNNShapley(neighbours=0)(_problem())
