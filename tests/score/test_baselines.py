"""Baselines by their definitions, and the properties that every method keeps."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from steelyard.data import read
from steelyard.errors import CapabilityError, DataError
from steelyard.learners.sklearn import Sklearn
from steelyard.problem import Problem
from steelyard.score.baselines import BM25, TFIDF, ClassSimilarity, EmbeddingCosine, Loss, Random
from steelyard.score.driver import score_pairs


def _problem(rows: int = 40, queries: int = 9) -> Problem:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows + queries, 4)), rng.integers(0, 3, rows + queries)
    x[3] = 0.0
    train, query = read((x[:rows], y[:rows])), read((x[rows:], y[rows:]))
    return Problem(Sklearn(LogisticRegression()), train, query)


def _texts() -> Problem:
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.choice(["salt", "oil", "tea"], size=6)), "label": i % 2} for i in range(20)]
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    learner = Sklearn(make_pipeline(TfidfVectorizer(), LogisticRegression()))
    return Problem(learner, read(rows[:15]), read(rows[15:]))


def test_random_knows_nothing_and_depends_on_ids_alone() -> None:
    problem = _problem(rows=400, queries=50)
    scores = Random(seed=1)(problem)
    values = scores.values
    assert scores.unit == "rank" and values.min() >= -1 and values.max() < 1
    assert abs(values.mean()) < 4 * (1 / 3 / values.size) ** 0.5
    assert np.abs(np.corrcoef(values.T) - np.eye(50)).max() < 5 / 20
    assert np.abs(np.corrcoef(values) - np.eye(400)).max() < 6.5 / 50**0.5
    assert len(np.unique(values)) > 0.99 * values.size
    order = np.random.default_rng(0).permutation(400)
    moved = replace_train(problem, problem.train.take(order))
    np.testing.assert_array_equal(Random(seed=1)(moved).values, values[order])
    np.testing.assert_array_equal(score_pairs(Random(seed=1), problem, shard=7).values, values)
    assert (Random(seed=2)(problem).values != values).mean() > 0.99
    assert scores.provenance.seeds["method"] == 1


def replace_train(problem: Problem, train) -> Problem:
    return Problem(problem.learner, train, problem.query, seed=problem.seed)


def test_loss_is_that_of_the_explained_model() -> None:
    problem = _problem()
    scores = Loss()(problem)
    fitted = problem.learner.explained(problem.train)
    np.testing.assert_allclose(scores.values[:, 0], problem.learner.loss(fitted, problem.train))
    assert (scores.axis, scores.suspect, scores.unit) == ("example", "high", "nats")
    regression = Problem(Sklearn(Ridge()), problem.train, problem.query)
    assert Loss()(regression).unit == "squared error"


@pytest.mark.parametrize(
    "labels", [[0, 1, 1, 2], ["a", "b", "b", "c"], [True, False, False, True], [0.0, 1.0, 1.0, 2.0]]
)
def test_class_similarity_is_equality(labels: list) -> None:
    train = read((np.arange(4.0)[:, None], np.array(labels)))
    problem = Problem(Sklearn(LogisticRegression()), train, train.take(slice(1, 3)))
    expected = [[float(a == b) for b in labels[1:3]] for a in labels]
    np.testing.assert_array_equal(ClassSimilarity()(problem).values, expected)


def test_class_similarity_of_targets_is_minus_their_distance() -> None:
    train = read((np.arange(4.0)[:, None], np.array([0.5, 1.5, 3.0, -1.0])))
    problem = Problem(Sklearn(Ridge()), train, train.take(slice(0, 2)))
    expected = [[0.0, -1.0], [-1.0, 0.0], [-2.5, -1.5], [-1.5, -2.5]]
    np.testing.assert_allclose(ClassSimilarity()(problem).values, expected)


def test_labels_of_two_kinds_are_refused() -> None:
    train, query = read((np.eye(2), np.array([0, 1]))), read((np.eye(2), np.array(["0", "1"])))
    method = ClassSimilarity()
    with pytest.raises(DataError, match="same kind of labels"):
        method.prepare(Problem(Sklearn(LogisticRegression()), train, query), _run())


@pytest.mark.parametrize("embedding", ["auto", "learner", "inputs"])
def test_cosine_equals_a_loop(embedding: str) -> None:
    problem = _problem()
    scores = EmbeddingCosine(embedding=embedding)(problem)
    x, q = (np.asarray(side.input()[:]) for side in (problem.train, problem.query))
    for i in range(len(x)):
        for j in range(len(q)):
            length = np.linalg.norm(x[i]) * np.linalg.norm(q[j])
            assert scores.values[i, j] == pytest.approx(x[i] @ q[j] / length if length else 0.0, abs=1e-6)
    assert scores.provenance.resolved["embedding"].startswith(
        "inputs" if embedding == "inputs" else "learner"
    )


def test_cosine_of_huge_and_tiny_vectors_is_finite() -> None:
    x = np.array([[1e300, 0.0], [1e-300, 1e-300], [0.0, 3.0]])
    problem = Problem(
        Sklearn(LogisticRegression()), read((x, np.array([0, 1, 1]))), read((x, np.array([0, 1, 1])))
    )
    values = EmbeddingCosine(embedding="inputs")
    state = values.prepare(problem, _run())
    root = 0.5**0.5
    expected = [[1, root, 0], [root, 1, root], [0, root, 1]]
    np.testing.assert_allclose(values.score(problem, state, slice(0, 3)), expected, atol=1e-6)


def _run():
    from steelyard.run import in_memory

    return in_memory()


@pytest.mark.parametrize("method", [BM25(), TFIDF(), BM25(k1=0.5, b=0.0)])
def test_lexical_methods_do_not_depend_on_order_shards_or_copies(method) -> None:
    problem = _texts()
    values = method(problem).values
    assert values.shape == (15, 5) and method(problem).unit == "rank"
    order = np.random.default_rng(0).permutation(15)
    moved = replace_train(problem, problem.train.take(order))
    np.testing.assert_allclose(method(moved).values, values[order], rtol=1e-6)
    np.testing.assert_array_equal(score_pairs(method, problem, shard=4).values, values)
    same = problem.train.labels() == problem.train.labels()[0]
    copies = [i for i in range(15) if problem.train.input()[i] == problem.train.input()[0]]
    assert same[0] and (values[copies] == values[0]).all()


@pytest.mark.parametrize("method", [BM25(), TFIDF()])
def test_lexical_methods_read_prompts_messages_and_refuse_numbers(method) -> None:
    turns = [
        [{"role": "user", "content": f"about {w}"}, {"role": "assistant", "content": w}]
        for w in ("oil", "tea")
    ]
    chats = read([{"messages": turn} for turn in turns])
    pairs = read([{"prompt": f"about {w}", "completion": w} for w in ("oil", "tea")])
    learner = _problem().learner
    for examples in (chats, pairs):
        index, queries = method.prepare(Problem(learner, examples, examples), _run())
        found = index.similarities(queries, slice(0, 2))
        assert (np.diag(found) > found.sum(axis=1) - np.diag(found)).all()
    with pytest.raises(CapabilityError, match="embedding_cosine"):
        method(_problem())


@pytest.mark.parametrize("method", [Random(), Loss(), ClassSimilarity(), EmbeddingCosine(), BM25(), TFIDF()])
def test_every_baseline_has_a_card_and_a_repr_that_makes_it_again(method) -> None:
    assert all(vars(method.card).values())
    assert eval(repr(method)) == method == replace(method)
