"""Laws that every method keeps; a method that does not keep one is named here with the reason.

The matrix is all of ``score.METHODS`` against small real problems: a network for what needs gradients, and texts
for the lexical methods.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

from steelyard import score
from steelyard.data import read
from steelyard.learners import SGD, Sklearn, Torch
from steelyard.problem import Problem
from steelyard.records import Examples, Scores
from steelyard.run import open_run
from steelyard.score.driver import score_pairs
from tests.planted_trees import Planted, planted_problem

pytestmark = pytest.mark.laws
LEXICAL = {"bm25", "tfidf"}
THROUGH_TRAINING = {"tracin", "source", "replay", "bayesian", "gptfluence"}
ON_LEAVES = {"boostin", "leaf_influence", "leaf_inf_sp", "leaf_refit", "trex", "tree_sim"}
METHODS = sorted(score.METHODS)
# Every shard is scored on its own, so floats may be summed in another order, never more than that.
CLOSE = {"rtol": 1e-5, "atol": 1e-7}

# Laws hold after few terms as after many, and annotations are checked at every one.
BRIEF = {
    "lissa": {"iterations": "25"},
    "label_consensus": {"repeats": "1", "seeds": "1"},
    "bayesian": {"base": "grad_dot", "draws": "3"},
    "nn_cift": {"base": "grad_dot"},
    "inffeed": {"base": "grad_dot", "folds": "2"},
    "gptfluence": {"runs": "2", "tested": "1", "components": "2"},
    "group_mates": {"groups": "10", "size": "3"},
    "memorization": {"fits": "20", "fraction": "0.5"},
    "data_shapley": {"fits": "35"},
    "beta_shapley": {"fits": "35"},
    "class_wise_shapley": {"fits": "40"},
    "banzhaf": {"fits": "32"},
    "least_core": {"fits": "21"},
    "ame": {"fits": "26"},
    "datamodels": {"fits": "20"},
    "data_oob": {"fits": "24"},
}
SAMPLED = (
    "data_shapley",
    "beta_shapley",
    "class_wise_shapley",
    "banzhaf",
    "least_core",
    "ame",
    "datamodels",
    "data_oob",
)

EXCEPTIONS = {
    ("gptfluence", "copies"): "two copies are in different batches of the recorded training",
    ("gptfluence", "queries"): "one simulator learns from the losses of all queries",
    ("nn_cift", "queries"): "one network learns from the scores of all queries",
    **{(name, "copies"): "two copies are in different subsets" for name in ("memorization", *SAMPLED)},
    ("random", "copies"): "every id draws its own number",
    ("leave_one_out", "copies"): "minibatch training treats two copies at different steps of an epoch",
    ("self_confidence", "copies"): "two copies may be in different folds",
    ("inffeed", "copies"): "two copies may be in different folds",
    ("label_consensus", "copies"): "two copies may be in different folds",
    ("replay", "copies"): "minibatch training treats two copies at different steps of an epoch",
}


def skip_exception(name: str, law: str) -> None:
    if (name, law) in EXCEPTIONS:
        pytest.skip(f"declared exception: {EXCEPTIONS[name, law]}")


def tables(count: int = 18, queries: int = 4) -> tuple[Examples, Examples]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count + queries, 3)).astype(np.float32)
    y = (x[:, 0] + 0.5 * rng.normal(size=len(x)) > 0).astype(np.int64)
    x[5], y[5] = x[2], y[2]
    ids = np.array([f"r{i}" for i in range(len(x))])
    train = read({"input": x[:count], "label": y[:count], "id": ids[:count]})
    return train, read({"input": x[count:], "label": y[count:], "id": ids[count:]})


def texts() -> tuple[Examples, Examples]:
    words = "steel yard balance weigh counterpoise arm heavy light training example query loss".split()  # noqa: SIM905
    rng = np.random.default_rng(2)
    lines = [" ".join(rng.choice(words, 6)) for _ in range(18)]
    lines[5] = lines[2]
    rows = [{"id": f"r{i}", "text": line, "label": i % 2} for i, line in enumerate(lines)]
    queries = [{"id": f"q{i}", "text": " ".join(rng.choice(words, 4)), "label": 0} for i in range(4)]
    return read(rows), read(queries)


def learner(trained: bool = True, first: int = 5) -> Torch:
    torch.manual_seed(first)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    recipe = SGD(lr=0.2, epochs=3, batch_size=8, weight_decay=0.01, checkpoints=2)
    return Torch(net, recipe=recipe, trained=trained)


def problem(name: str) -> Problem:
    if name == "class_wise_shapley":
        return Problem(Sklearn(LogisticRegression(), measurement="accuracy"), *tables())
    # These ask for a training, everybody else is asked about the same given parameters.
    if name in ON_LEAVES:
        return planted_problem(Planted("softmax", 3, scale=1.5, rounds=3), 18, 4, copy=(5, 2))
    if name == "high_dim_representers":
        sparse = LogisticRegression(C=1.0, l1_ratio=1.0, solver="liblinear", tol=1e-8, random_state=0)
        return Problem(Sklearn(sparse), *tables())
    if name in LEXICAL:
        return Problem(Sklearn(make_pipeline(TfidfVectorizer(), LogisticRegression())), *texts())
    train, query = tables()
    return Problem(learner(trained=name not in THROUGH_TRAINING), train, query)


def scores(name: str, p: Problem) -> Scores:
    return score.by_name(name, BRIEF.get(name, {}))(p)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("random", "loss")])
def test_a_method_names_its_source(name: str) -> None:
    assert "Source:" in (score.method_class(name).__doc__ or ""), (
        "say which paper, and which equation or section of it"
    )


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_bits(name: str) -> None:
    first, second = scores(name, problem(name)), scores(name, problem(name))
    np.testing.assert_array_equal(first.values, second.values)
    assert first.provenance.resolved == second.provenance.resolved


@pytest.mark.parametrize("name", METHODS)
def test_permuting_training_rows_permutes_scores(name: str) -> None:
    skip_exception(name, "permutation")
    p = problem(name)
    if name == "tracin":  # another order is another training, unless batches follow ids, which they do
        assert p.learner.settings()["recipe"]
    order = np.random.default_rng(3).permutation(len(p.train))
    shuffled = Problem(p.learner, p.train.take(order), p.query)
    before, after = scores(name, p), scores(name, shuffled)
    np.testing.assert_array_equal(after.train_ids, before.train_ids[order])
    np.testing.assert_allclose(after.values, before.values[order], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("shard", [pytest.param(1, marks=pytest.mark.slow), 7])
@pytest.mark.parametrize("name", METHODS)
def test_the_size_of_a_shard_does_not_matter(name: str, shard: int) -> None:
    method = score.by_name(name, BRIEF.get(name, {}))
    if not all(callable(getattr(method, part, None)) for part in ("prepare", "score", "unit")):
        pytest.skip(f"{name} is not scored in shards")
    p = problem(name)
    whole = method(p)
    if whole.axis == "example":
        pytest.skip("one column; shards are the driver's own, tested there")
    np.testing.assert_allclose(score_pairs(method, p, shard=shard).values, whole.values, **CLOSE)


@pytest.mark.parametrize("name", METHODS)
def test_a_copy_has_the_same_score(name: str) -> None:
    skip_exception(name, "copies")
    values = scores(name, problem(name)).values
    np.testing.assert_allclose(values[5], values[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_queries_do_not_disturb_one_another(name: str) -> None:
    skip_exception(name, "queries")
    p = problem(name)
    whole = scores(name, p)
    if whole.axis == "example":
        pytest.skip("about training examples alone")
    part = scores(name, Problem(p.learner, p.train, p.query.take(np.array([3, 1]))))
    np.testing.assert_array_equal(part.query_ids, whole.query_ids[[3, 1]])
    np.testing.assert_allclose(part.values, whole.values[:, [3, 1]], rtol=1e-4, atol=1e-6)


WEIGHTED = ["grad_dot", "tracin", "gauss_newton", "kfac", "ekfac", "trak", "self_influence", "leave_one_out"]
WEIGHTED += ["source", "replay"]
WEIGHTED += ["logra", "grass"]
WEIGHTED += ["data_shapley", "banzhaf", "datamodels", "data_oob", "lava"]
CURVATURE = [
    "tkfac",
    "shampoo",
    "cg",
    "lissa",
    "arnoldi",
    "nystrom",
    "ekfac_cg",
    "datainf",
    "group_influence",
]
WEIGHTED += CURVATURE
WEIGHTED += sorted(ON_LEAVES)


@pytest.mark.parametrize("name", WEIGHTED)
def test_weight_zero_is_absence(name: str) -> None:
    p = problem(name)
    weights = np.ones(len(p.train))
    weights[[4, 9]] = 0.0
    weighted = Problem(p.learner, p.train.with_column("weight", weights, "w"), p.query)
    absent = Problem(p.learner, p.train.take(np.flatnonzero(weights)), p.query)
    found, expected = scores(name, weighted), scores(name, absent)
    assert np.abs(found.values[[4, 9]]).max() == 0.0
    np.testing.assert_allclose(found.values[weights > 0], expected.values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_saved_scores_come_back_equal(name: str, tmp_path) -> None:
    before = scores(name, problem(name))
    before.save(tmp_path / "scores")
    after = Scores.load(tmp_path / "scores")
    np.testing.assert_array_equal(after.values, before.values)
    np.testing.assert_array_equal(after.train_ids, before.train_ids)
    assert after.method == before.method
    assert after.unit == before.unit
    assert after.measurement == before.measurement
    assert after.provenance.to_json()["given"] == before.provenance.to_json()["given"]
    assert after.top(3).equals(before.top(3))


def other(name: str, what: str) -> Problem:
    """A problem that differs from the usual one in one thing: what is kept about one is wrong for the other."""
    p = problem(name)
    if what == "learner" and isinstance(p.learner, Torch):
        return Problem(learner(trained=name not in THROUGH_TRAINING, first=6), p.train, p.query)
    if what == "train":
        return Problem(p.learner, p.train.take(np.arange(1, len(p.train))), p.query)
    if what == "query":
        return Problem(p.learner, p.train, p.query.take(np.arange(3)))
    return Problem(p.learner, p.train, p.query, seed=1)


# Every day for one method of each kind of kept result; for all of them with the slow tests.
KEPT = ("ekfac", "trak", "datainf", "banzhaf", "label_consensus")


@pytest.mark.parametrize("what", ["train", "seed", "query", "learner"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in KEPT else pytest.mark.slow) for name in METHODS]
)
def test_problems_in_one_run_folder_do_not_read_each_others_results(name: str, what: str, tmp_path) -> None:
    method, changed = score.by_name(name, BRIEF.get(name, {})), other(name, what)
    with open_run(tmp_path / "shared", {"purpose": "laws"}, show="quiet") as run:
        method(problem(name), run)
        shared = method(changed, run)
    np.testing.assert_array_equal(shared.values, method(changed).values)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name: str) -> None:
    card = score.method_class(name).card
    assert all((card.paper, card.needs, card.cost, card.good_for))
    found = scores(name, problem(name))
    assert found.provenance.checksums.keys() >= {"train", "query", "learner"}
    assert found.unit
    assert found.values.shape[0] == 18


CONVEX = ["gauss_newton", "kfac", "ekfac", "trak", "grad_dot", "tracin", "source", "replay"]
CONVEX += CURVATURE
CONVEX += ["logra", "grass", "trackstar", "less"]


@pytest.fixture(scope="module")
def convex() -> tuple[Problem, np.ndarray]:
    """Softmax regression trained to its optimum, and real removals of every example."""
    train, query = tables(60, 6)
    recipe = SGD(lr=1.0, epochs=250, batch_size=60, weight_decay=0.05, checkpoints=3)
    p = Problem(Torch(nn.Linear(3, 2).double(), recipe=recipe), train, query)
    return p, scores("leave_one_out", p).values


@pytest.mark.parametrize("name", CONVEX)
def test_positive_means_that_removal_hurts(name: str, convex: tuple[Problem, np.ndarray]) -> None:
    """Scores agree in sign and order with real removals."""
    p, truth = convex
    # This network is at its optimum, which the default does not take for granted.
    found = score.by_name(name, {"damping": "0"} if name == "gauss_newton" else {})(p).values
    # The objective is a mean plus a penalty: any removal gives the penalty the same slightly larger share, which
    # moves a query by the same amount whichever example goes.
    found, truth = found - found.mean(0), truth - truth.mean(0)
    correlation = np.corrcoef(found.ravel(), truth.ravel())[0, 1]
    least = {"gauss_newton": 0.99, "replay": 0.99, "kfac": 0.9, "ekfac": 0.9, "source": 0.9}
    assert correlation > least.get(name, 0.5)
    if name in ("gauss_newton", "replay"):
        slope = np.polyfit(found.ravel(), truth.ravel(), 1)[0]
        assert 0.85 < slope < 1.15  # in nats, not up to a factor


def test_a_margin_turns_the_sign_of_a_loss() -> None:
    train, query = tables()
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    loss = Problem(Torch(net, trained=True), train, query)
    margin = Problem(Torch(net, trained=True, measurement="margin"), train, query)
    for name in ("grad_dot", "ekfac", "gauss_newton", "trak"):
        agree = np.sign(scores(name, loss).values) == np.sign(scores(name, margin).values)
        assert agree.mean() > 0.99, name


def test_narrow_and_wide_numbers_rank_alike() -> None:
    train, query = tables(40, 5)
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    narrow = Problem(Torch(net, trained=True), train, query)
    wide_train = replace(
        train, columns={**train.columns, "input": np.asarray(train.column("input")[:], np.float64)}
    )
    wide_query = replace(
        query, columns={**query.columns, "input": np.asarray(query.column("input")[:], np.float64)}
    )
    wide = Problem(Torch(net.double(), trained=True), wide_train, wide_query)
    for name in ("grad_dot", "ekfac", "kfac"):
        top = [set(np.argsort(-scores(name, p).values[:, 0])[:4]) for p in (narrow, wide)]
        assert top[0] == top[1], name
