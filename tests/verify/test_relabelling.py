"""Changed labels: those who know are confirmed, those who do not are not, and bad input is refused."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

import steelyard as sy
from steelyard.cli.app import app
from steelyard.errors import DataError, SettingError
from steelyard.problem import Problem
from steelyard.verify import fix_labels, poison
from tests.problems import scores_of


def problem(seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(160, 3))
    right = (x @ [1.0, -1.0, 0.5] > 0).astype(np.int64)
    given = right.copy()
    flipped = draw.choice(100, 20, replace=False)
    given[flipped] = 1 - given[flipped]
    train = sy.read({"input": x[:100], "label": given[:100]}).with_column("right", right[:100], "right")
    query = sy.read({"input": x[100:], "label": right[100:]})
    return Problem(sy.learners.Sklearn(LogisticRegression()), train, query, seed=seed), flipped


def scored(given, values):
    return scores_of(given, np.repeat(np.asarray(values, dtype=float)[:, None], len(given.query), axis=1))


ASKED = {"poison": poison, "fix_labels": lambda p, s, **more: fix_labels(p, s, "right", **more)}


@pytest.mark.parametrize("name", sorted(ASKED))
def test_knowing_which_labels_are_wrong_is_confirmed_and_the_opposite_is_not(name):
    given, flipped = problem()
    values = np.where(
        np.isin(np.arange(100), flipped), -1.0, np.abs(given.train.column("input")[:]).sum(axis=1)
    )
    found = ASKED[name](given, scored(given, values), share=0.2)
    assert found.verdict == "confirmed" and found.estimate > 0
    assert found.interval[0] <= found.estimate <= found.interval[1]
    assert found.table["changed"][0] == 20
    assert ASKED[name](given, scored(given, -values), share=0.2).estimate < 0


@pytest.mark.parametrize("name", sorted(ASKED))
def test_random_scores_are_confirmed_no_more_often_than_the_level_says(name):
    trials, confirmed = 30, 0
    for trial in range(trials):
        given, _ = problem(trial)
        values = np.random.default_rng([trial, 7]).normal(size=100)
        confirmed += ASKED[name](given, scored(given, values), controls=5).verdict == "confirmed"
    assert confirmed <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5


def test_the_effect_is_that_of_training_on_the_changed_labels():
    given, flipped = problem()
    values = np.where(np.isin(np.arange(100), flipped), -1.0, 0.0)
    found = fix_labels(given, scored(given, values), "right", share=0.2)
    fixed = given.train.with_column("label", np.asarray(given.train.column("right")[:]), "fixed")
    losses = [given.learner.measure(given.learner.fit(side), given.query) for side in (given.train, fixed)]
    # Blocks of logistic regressions go to the minimum, single ones stop within tol of it.
    assert found.table["effect"][0] == pytest.approx(float((losses[0] - losses[1]).mean()), rel=2e-3)


def test_bad_settings_and_columns_are_refused():
    given, _ = problem()
    scores = scored(given, np.arange(100))
    with pytest.raises(SettingError, match="share"):
        poison(given, scores, share=0.9)
    with pytest.raises(SettingError, match="controls"):
        poison(given, scores, controls=2)
    with pytest.raises(DataError, match="no label"):
        fix_labels(given, scores, "label")


@pytest.mark.trees
def test_the_command_line_verifies_boosted_trees_by_both(tmp_path):
    lightgbm = pytest.importorskip("lightgbm", reason="lightgbm is not installed: steelyard[trees]")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(160, 3))
    right = (x @ [1.0, -1.0, 0.5] > 0).astype(int)
    given = np.where(draw.random(160) < 0.2, 1 - right, right)
    settings = {"objective": "binary", "num_leaves": 4, "verbosity": -1, "num_threads": 1}
    data = lightgbm.Dataset(x[:120], given[:120], feature_name=["a", "b", "c"])
    lightgbm.train(settings, data, 10).save_model(tmp_path / "model.txt")
    for name, part, labels in (("train", slice(120), given), ("query", slice(120, 160), right)):
        table = np.column_stack([x[part], labels[part], right[part]])
        np.savetxt(tmp_path / f"{name}.csv", table, "%.6g", ",", header="a,b,c,y,right", comments="")
    paths = {name: str(tmp_path / name) for name in ("model.txt", "train.csv", "query.csv", "run")}
    asked = [
        "--train",
        paths["train.csv"],
        "--query",
        paths["query.csv"],
        "--label",
        "y",
        "--features",
        "a,b,c",
    ]
    command = ["attribute", paths["model.txt"], *asked, "--method", "boostin", "--out", paths["run"]]
    verify = ["verify", paths["run"], "--metric", "poison,fix_labels", "--truth", "fix_labels=right"]
    for arguments in (command, verify):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert "poison" in result.output.lower() and "fix" in result.output.lower()
