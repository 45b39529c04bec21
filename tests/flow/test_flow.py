"""The stages in one call: models of every kind, and results that agree with the stages by hand."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge

import steelyard as sy
from steelyard import flow
from steelyard.errors import CapabilityError, ModelError, SettingError
from steelyard.run import open_run


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return rng.normal(size=(count, 3)) + 1.5 * labels[:, None], labels


TRAIN, QUERY = blobs(80, 0), blobs(10, 1)


def network():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()


def test_a_model_of_any_kind_becomes_a_problem():
    fitted = LogisticRegression().fit(*TRAIN)
    for model in (fitted, sy.learners.Sklearn(LogisticRegression()), network()):
        problem = flow.problem_of(model, TRAIN, QUERY, seed=4)
        assert (len(problem.train), len(problem.query), problem.seed) == (80, 10, 4)
    assert flow.problem_of(problem) is problem


@pytest.mark.parametrize(
    ("model", "message"),
    [(3, "builtins.int is no model"), (LogisticRegression, "is a class, not a model")],
)
def test_anything_else_is_refused(model, message):
    with pytest.raises(ModelError, match=message):
        flow.problem_of(model, TRAIN, QUERY)


def test_data_is_given_once():
    problem = flow.problem_of(LogisticRegression().fit(*TRAIN), TRAIN, QUERY)
    with pytest.raises(SettingError, match="has its data already"):
        sy.attribute(problem, TRAIN, QUERY)
    with pytest.raises(SettingError, match="without queries"):
        sy.attribute(LogisticRegression().fit(*TRAIN), TRAIN)


def test_attribute_is_the_method_called_on_the_problem():
    model = LogisticRegression().fit(*TRAIN)
    by_hand = sy.score.GaussNewton(damping=0.1)(
        sy.Problem(sy.learners.Sklearn(model, trained=True), TRAIN, QUERY)
    )
    in_one = sy.attribute(model, TRAIN, QUERY, method=sy.score.GaussNewton(damping=0.1))
    np.testing.assert_array_equal(in_one.values, by_hand.values)
    assert in_one.method == by_hand.method


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (LogisticRegression().fit(*TRAIN), "GaussNewton"),
        (RandomForestClassifier(5, random_state=0).fit(*TRAIN), "KNNShapley"),
    ],
)
def test_auto_is_the_method_that_suits_the_model(model, method):
    assert sy.attribute(model, TRAIN, QUERY).name == method


def test_auto_is_ekfac_for_a_network():
    assert sy.attribute(network(), TRAIN, QUERY).name == "EKFAC"


def test_value_is_the_mean_over_queries():
    model = LogisticRegression().fit(*TRAIN)
    pairs = sy.attribute(model, TRAIN, QUERY, method="knn_shapley")
    values = sy.value(model, TRAIN, QUERY)
    np.testing.assert_allclose(values.values[:, 0], np.asarray(pairs.values).mean(axis=1, dtype=np.float64))
    assert (values.axis, values.suspect) == ("example", "low")
    with pytest.raises(CapabilityError, match="not what it is worth"):
        sy.value(model, TRAIN, QUERY, method="self_influence")


def test_value_table_covers_the_mean_of_a_population_of_queries():
    """Intervals from samples of queries contain the mean over all queries about as often as they say."""
    rng = np.random.default_rng(0)
    population = rng.normal(loc=0.3, size=(50, 4000))
    truth = population.mean(axis=1)
    hits = []
    for _ in range(40):
        chosen = rng.choice(4000, size=60, replace=False)
        table = flow.value_table(pair_scores(population[:, chosen])).sort("train_id")
        low, high = table["low"].to_numpy(), table["high"].to_numpy()
        hits.append(((low <= truth) & (truth <= high)).mean())
    assert 0.92 < np.mean(hits) < 0.98


def test_value_table_has_no_interval_where_there_is_none():
    table = flow.value_table(pair_scores(np.ones((50, 1))))
    assert table["low"].null_count() == 50


def pair_scores(values: np.ndarray) -> sy.Scores:
    return sy.Scores(
        values=values,
        train_ids=np.array([f"{i:02}" for i in range(len(values))]),
        query_ids=np.array([str(j) for j in range(values.shape[1])]),
        method="Test()",
        unit="nats",
        measurement=sy.Measurement("loss", "nats", lower_is_better=True),
    )


def flipped() -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    x, labels = blobs(200, 2)
    x = x + 2.0 * labels[:, None]
    given = labels.copy()
    wrong = np.arange(0, 200, 25)
    given[wrong] = 1 - given[wrong]
    return (x, given), wrong


def test_clean_finds_flipped_labels_and_proposes_the_right_ones():
    train, wrong = flipped()
    report = sy.clean(sy.learners.Sklearn(LogisticRegression()), train, blobs(20, 3), fraction=0.04)
    problem = flow.problem_of(sy.learners.Sklearn(LogisticRegression()), train, QUERY)
    drop, relabel = report.plans
    found = set(drop.ids) & set(problem.train.ids[wrong])
    assert len(found) >= 6
    assert set(relabel.ids) <= set(drop.ids)
    assert len(set(relabel.ids) & found) >= 6
    applied = relabel.apply(report.train).labels()
    rows = report.train.positions(relabel.ids)
    np.testing.assert_array_equal(applied[rows], 1 - train[1][rows])


def test_issues_have_a_row_per_suspect_and_a_rank_per_score():
    train, _ = flipped()
    report = sy.clean(sy.learners.Sklearn(LogisticRegression()), train, fraction=0.04)
    table = flow.issues(report)
    assert table.columns == [
        "train_id",
        "label",
        "proposed_label",
        "reason",
        "SelfInfluence_rank",
        "Loss_rank",
    ]
    assert table["SelfInfluence_rank"].to_list() == list(range(1, 9))


def test_clean_says_why_no_labels_are_proposed(tmp_path):
    x, _ = TRAIN
    with open_run(tmp_path / "run", {}) as run:
        report = sy.clean(sy.learners.Sklearn(Ridge()), (x, x[:, 0]), fraction=0.1, run=run)
        assert any("no labels proposed" in note for note in run.notes)
    assert [plan.action for plan in report.plans] == ["drop"]


def test_explain_has_the_baselines_that_fit_the_problem():
    report = flow.explain(flow.problem_of(LogisticRegression().fit(*TRAIN), TRAIN, QUERY), "gauss_newton")
    names = [scores.name for scores in report.scores]
    assert names == ["GaussNewton", "Random", "Loss", "ClassSimilarity", "EmbeddingCosine"]
    assert report.query.columns["predicted"] is not None


def test_verify_report_adds_evidence_and_judges_again():
    problem = sy.Problem(sy.learners.Sklearn(LogisticRegression()), TRAIN, QUERY)
    report = flow.explain(problem, "gauss_newton", baselines=False)
    proven = flow.verify_report(problem, report, metrics=("lds", "retraining"), subsets=16)
    assert [found.metric for found in proven.evidence] == ["lds", "retraining"]
    assert proven.plans[0].action == "drop"
    assert proven.verdict != report.verdict
    with pytest.raises(SettingError, match="did you mean 'lds'"):
        flow.verify_report(problem, report, metrics=("ldss",))
