"""Changed labels: the truth is confirmed, its opposite is not, random scores seldom are, bad settings are refused."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from steelyard import verify
from steelyard.cli.app import app
from steelyard.errors import DataError, FitError, SettingError
from steelyard.problem import Problem
from steelyard.records import Examples, Scores
from steelyard.run import in_memory, open_run
from tests.problems import Ridge, examples, inputs, scores_of

TRAIN, QUERY, WRONG = 100, 16, 10


def game(
    seed: int = 0, *, numbers: bool = False, noise: float = 0.002, needs: tuple[str, ...] = ()
) -> Problem:
    """Two classes, or numbers, that least squares tells apart; some training labels are wrong."""
    draw = np.random.default_rng(5)
    x, q = draw.normal(size=(TRAIN, 4)), draw.normal(size=(QUERY, 4))
    x = x[np.argsort(-x[:, 0])]  # so that the wrong labels lean one way and do not cancel
    truth = np.array([2.0, -1.0, 0.5, 1.5])
    sides = [side @ truth for side in (x, q)]
    right, asked = sides if numbers else [np.sign(side).astype(np.int64) for side in sides]
    given = right.copy()
    given[:WRONG] *= -1
    train = examples(x, given, "t").with_column("right", right, f"{seed}{numbers}right")
    return Problem(Ridge(noise=noise, needs=needs), train, examples(q, asked, "q"), seed=seed)


def effect(problem: Problem) -> np.ndarray:
    """What a label does to each query: its pull on the prediction, towards the query's label or away from it."""
    x, q = inputs(problem.train), inputs(problem.query)
    pull = x @ np.linalg.solve(x.T @ x + np.eye(4), q.T)
    return pull * np.outer(problem.train.labels(), problem.query.labels())


def edit(problem: Problem, scores: Scores):
    return verify.targeted_edit(problem, scores, queries=6, share=0.1)


def spoil(problem: Problem, scores: Scores):
    return verify.poison(problem, scores, share=0.15)


def fix(problem: Problem, scores: Scores):
    return verify.fix_labels(problem, scores, column="right", share=0.1, controls=12)


VERIFIERS = {"targeted_edit": edit, "poison": spoil, "fix_labels": fix}


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("name", sorted(VERIFIERS))
def test_the_truth_is_confirmed_and_its_opposite_is_not(name, numbers):
    problem = game(numbers=numbers)
    truth = effect(problem)
    if name == "fix_labels":
        truth = np.repeat(np.where(np.arange(TRAIN) < WRONG, -1.0, 0.0)[:, None], QUERY, axis=1)
    found = VERIFIERS[name](problem, scores_of(problem, truth))
    assert found.verdict == "confirmed", found.summary()
    assert found.interval[0] <= found.estimate <= found.interval[1]
    assert found.control["estimate"] < found.interval[0]
    assert VERIFIERS[name](problem, scores_of(problem, -truth)).verdict != "confirmed"


@pytest.mark.laws
@pytest.mark.parametrize("trials", [25, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["pairs", "examples"])
@pytest.mark.parametrize("name", sorted(VERIFIERS))
def test_random_scores_are_seldom_confirmed(name, kind, trials):
    confirmed = 0
    for trial in range(trials):
        problem, draw = game(trial), np.random.default_rng([trial, 3])
        values = draw.normal(size=(TRAIN, QUERY if kind == "pairs" else 1)) + np.zeros((TRAIN, QUERY))
        confirmed += VERIFIERS[name](problem, scores_of(problem, values)).verdict == "confirmed"
    assert confirmed <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5


def test_estimates_are_those_of_the_edits_by_hand():
    problem = game(noise=0.0)
    learner, train, labels = problem.learner, problem.train, problem.train.labels()

    def after(changed: np.ndarray) -> np.ndarray:
        fitted = learner.fit(train.with_column("label", changed, "by hand"))
        return learner.measure(fitted, problem.query) - learner.measure(learner.fit(train), problem.query)

    scores = scores_of(problem, effect(problem))
    found = fix(problem, scores)
    suspects = np.argsort(effect(problem).mean(axis=1))[:10]
    changed = labels.copy()
    changed[suspects] = np.asarray(train.column("right"))[suspects]
    np.testing.assert_allclose(found.table["by_scores"], -after(changed))
    assert found.estimate == pytest.approx(-after(changed).mean())

    helpful = np.argsort(-effect(problem).mean(axis=1))[:15]
    changed = labels.copy()
    changed[helpful] *= -1  # of two classes there is one other
    np.testing.assert_allclose(spoil(problem, scores).table["by_scores"], after(changed))

    found = edit(problem, scores)
    name, expected = found.table["query_id"][0], found.table["edited"][0]
    q = problem.query.ids.tolist().index(name)
    wanted = found.table["label_given"][0]
    assert wanted == -problem.query.labels()[q]
    pool = np.flatnonzero(labels != wanted)
    changed = labels.copy()
    changed[pool[np.argsort(-effect(problem)[pool, q])[:10]]] = wanted
    assert expected == pytest.approx(after(changed)[q])


def test_cost_is_predicted_and_random_sets_are_shared(tmp_path):
    problem = game()
    first, second = (scores_of(problem, sign * effect(problem)) for sign in (1, -1))
    with open_run(tmp_path / "run", {"test": 1}, show="quiet") as run:
        found = verify.poison(problem, first, seeds=2, controls=4, run=run)
        assert found.provenance.predicted is not None
        assert run.cost.fits == found.provenance.predicted.fits == 2 * 6
        verify.poison(problem, second, seeds=2, controls=4, run=run)
        assert run.cost.fits == 2 * 6 + 2
    run = in_memory()
    found = verify.targeted_edit(problem, first, queries=5, controls=3, run=run)
    assert found.provenance.predicted is not None
    assert run.cost.fits == found.provenance.predicted.fits == 1 + 5 + 2 * 3


def test_scores_per_example_do_where_no_query_is_named():
    problem = game()
    suspicion = replace(
        scores_of(problem, effect(problem)),
        values=(np.arange(TRAIN) < WRONG).astype(float)[:, None],
        query_ids=np.array(["self"]),
        axis="example",
        suspect="high",
    )
    assert fix(problem, suspicion).verdict == "confirmed"
    with pytest.raises(SettingError, match="one score per training example and query"):
        edit(problem, suspicion)


def test_bad_settings_and_columns_are_refused():
    problem = game()
    scores = scores_of(problem, effect(problem))
    with pytest.raises(SettingError, match="share=0.7"):
        verify.poison(problem, scores, share=0.7)
    with pytest.raises(SettingError, match="controls=2"):
        verify.fix_labels(problem, scores, column="right", controls=2)
    with pytest.raises(SettingError, match="queries=1"):
        verify.targeted_edit(problem, scores, queries=1)
    with pytest.raises(SettingError, match="have another one"):
        verify.targeted_edit(problem, scores, share=0.5, controls=3)
    with pytest.raises(DataError, match="no label is wrong"):
        verify.fix_labels(problem, scores, column="label")
    text = problem.train.with_column("right", np.array(["a"] * TRAIN), "text")
    with pytest.raises(DataError, match="does not hold labels like"):
        verify.fix_labels(
            _with(problem, text), scores_of(_with(problem, text), effect(problem)), column="right"
        )
    same = problem.train.with_column("label", np.ones(TRAIN, dtype=np.int64), "same")
    with pytest.raises(SettingError, match="same label"):
        verify.poison(_with(problem, same), scores_of(_with(problem, same), effect(problem)))


def test_fits_that_fail_end_in_an_error():
    broken = game(needs=("t0000", "missing"))
    with pytest.raises(FitError):
        verify.poison(broken, scores_of(broken, effect(broken)))


def _with(problem: Problem, train: Examples) -> Problem:
    return Problem(problem.learner, train, problem.query, seed=problem.seed)


@pytest.mark.trees
def test_the_command_line_verifies_boosted_trees_by_changed_labels(tmp_path):
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
    verify = [
        "verify",
        paths["run"],
        "--metric",
        "targeted_edit,poison,fix_labels",
        "--truth",
        "fix_labels=right",
    ]
    for arguments in (command, verify):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert (
        "targeted edit" in result.output.lower()
        and "poison" in result.output.lower()
        and "fix" in result.output.lower()
    )
