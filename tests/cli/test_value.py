"""``steelyard value`` with refits: tables with intervals, groups, utilities, interruption, bad input."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from steelyard.cli.app import app
from steelyard.collect import games

GROUPED = """
import numpy as np
from sklearn.linear_model import LogisticRegression
import steelyard as sy


def build():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(68, 3))
    y = (x[:, 0] > 0).astype(int)
    wrong = y.copy()
    wrong[:60:5] = 1 - wrong[:60:5]
    source = np.array(["abcde"[i % 5] for i in range(60)])
    train = sy.read({"input": x[:60], "label": wrong[:60], "source": source}, features="input")
    return sy.Problem(sy.learners.Sklearn(LogisticRegression()), train, {"input": x[60:], "label": y[60:]})
"""


@pytest.fixture
def grouped(tmp_path: Path) -> str:
    path = tmp_path / "grouped.py"
    path.write_text(GROUPED)
    return f"{path}:build"


def table(folder: Path) -> pl.DataFrame:
    return pl.read_csv(folder / "values.csv", schema_overrides={"train_id": pl.String})


@pytest.mark.parametrize("method", ["banzhaf", "datamodels", "data_oob"])
def test_values_come_with_intervals(runner, model, tmp_path, method):
    out = tmp_path / "run"
    given = ["value", f"{model}:build", "--method", method, "--set", "fits=60", "--out", str(out)]
    found = runner.invoke(app, given)
    assert found.exit_code == 0, found.output
    values = table(out)
    assert len(values) == 60
    assert values["value"].is_sorted()
    assert (values["low"] < values["value"]).all()
    assert (values["value"] < values["high"]).all()
    assert "interval over other random fits" in found.output
    assert (out / "report.html").exists()


def test_values_without_an_interval_have_no_empty_columns(runner, grouped, tmp_path):
    out = tmp_path / "run"
    found = runner.invoke(app, ["value", grouped, "--method", "class_similarity", "--out", str(out)])
    assert found.exit_code == 0, found.output
    head = found.output.splitlines()[0]
    assert "value (rank)" in head and "low" not in head and "high" not in head
    assert table(out)["low"].null_count() == 60


def test_groups_and_another_utility(runner, grouped, tmp_path):
    out = tmp_path / "run"
    given = ["value", grouped, "--groups", "source", "--utility", "accuracy", "--out", str(out), "--json"]
    found = runner.invoke(app, [*given, "--method", "data_shapley", "--set", "exact=true"])
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert answer["unit"] == "accuracy"
    assert {row["train_id"] for row in answer["values"]} == set("abcde")
    assert answer["values"][0]["train_id"] == "a"  # whose labels are all wrong
    assert all(row["low"] == row["high"] == row["value"] for row in answer["values"])


@pytest.mark.parametrize("method", ["data_oob", "lava"])
def test_groups_are_valued_without_a_game(runner, grouped, tmp_path, method):
    out = tmp_path / "run"
    given = ["value", grouped, "--groups", "source", "--out", str(out), "--method", method, "--json"]
    found = runner.invoke(app, [*given, *(["--set", "fits=50"] if method == "data_oob" else [])])
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert {row["train_id"] for row in answer["values"]} == set("abcde")
    assert all(row["low"] < row["value"] < row["high"] for row in answer["values"])
    if method == "data_oob":
        assert answer["values"][0]["train_id"] == "a"  # whose labels are all wrong


def test_what_cannot_be_grouped_says_what_can(runner, grouped, tmp_path):
    given = ["value", grouped, "--out", str(tmp_path / "run"), "--groups", "source"]
    found = runner.invoke(app, [*given, "--method", "knn_shapley"])
    assert found.exit_code == 2
    assert "data_shapley" in found.output
    assert "lava" in found.output
    found = runner.invoke(app, [*given[:-1], "owner", "--method", "banzhaf", "--set", "fits=40"])
    assert found.exit_code == 2
    assert "no column 'owner'" in found.output


def test_a_budget_too_small_says_what_would_do(runner, model, tmp_path):
    given = ["value", f"{model}:build", "--out", str(tmp_path / "run")]
    found = runner.invoke(app, [*given, "--method", "data_shapley", "--set", "fits=50"])
    assert found.exit_code == 2
    assert "fits=119" in found.output


def test_fits_come_from_a_bank_where_it_has_them(runner, model, tmp_path):
    bank, out = tmp_path / "bank", tmp_path / "run"
    built = runner.invoke(app, ["bank", "build", f"{model}:build", "--fits", "40", "--out", str(bank)])
    assert built.exit_code == 0, built.output
    given = ["value", f"{model}:build", "--method", "banzhaf", "--set", "fits=60", "--out", str(out)]
    found = runner.invoke(app, [*given, "--bank", str(bank)])
    assert found.exit_code == 0, found.output
    (kept,) = (out / "report" / "scores").glob("*/scores.json")
    cost = json.loads(kept.read_text())
    assert cost["provenance"]["cost"]["fits"] == 20  # 40 of the 60 are in the bank
    plain = tmp_path / "plain"
    assert runner.invoke(app, [*given[:-1], str(plain)]).exit_code == 0
    np.testing.assert_allclose(table(out)["value"], table(plain)["value"], rtol=1e-6, atol=1e-9)


def test_a_value_run_can_be_verified_by_its_utility(runner, model, tmp_path):
    out = tmp_path / "run"
    given = ["value", f"{model}:build", "--method", "banzhaf", "--set", "fits=40", "--utility", "margin"]
    assert runner.invoke(app, [*given, "--out", str(out)]).exit_code == 0
    found = runner.invoke(app, ["verify", str(out), "--metric", "lds", "--seeds", "1", "--subsets", "16"])
    assert found.exit_code == 0, found.output


def test_ctrl_c_leaves_values_and_the_same_command_goes_on(runner, model, tmp_path, monkeypatch):
    out = tmp_path / "run"
    given = ["value", f"{model}:build", "--method", "banzhaf", "--set", "fits=320", "--out", str(out)]
    calls, made = [], games.outcomes

    def outcomes(*arguments, **named):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return made(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(games, "outcomes", outcomes)
        stopped = runner.invoke(app, given)
    assert stopped.exit_code == 130
    part = tmp_path / "run.part"
    first = table(part)
    assert len(first) == 60
    assert not out.exists()
    found = runner.invoke(app, given)
    assert found.exit_code == 0, found.output
    values = table(out)
    wide, narrow = ((one["high"] - one["low"]).mean() for one in (first, values))
    assert narrow < wide
    plain = tmp_path / "plain"
    assert runner.invoke(app, [*given[:-1], str(plain)]).exit_code == 0
    np.testing.assert_allclose(
        values["value"].to_numpy(), table(plain)["value"].to_numpy(), rtol=1e-6, atol=1e-9
    )
