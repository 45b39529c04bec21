"""Scores of labels and of memorisation from the command line, and which method a report names."""

import json

import polars as pl
import pytest

from steelyard.cli.app import app


@pytest.mark.parametrize("command", ["clean", "attribute"])
@pytest.mark.parametrize(
    ("method", "setting"),
    [("label_consensus", "repeats=1"), ("knn_label", "neighbours=5"), ("memorization", "fits=40")],
)
def test_scores_of_examples_run_from_the_command_line(runner, model, tmp_path, command, method, setting):
    out = tmp_path / "run"
    arguments = [command, f"{model}:build", "--method", method, "--set", setting, "--out", str(out), "--json"]
    found = runner.invoke(app, arguments)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout.splitlines()[-1])
    assert told["method"].lower().startswith(method.replace("_", ""))


def test_clean_names_the_method_that_found_the_suspects(runner, model, tmp_path):
    out = tmp_path / "run"
    arguments = [
        "clean",
        f"{model}:build",
        "--method",
        "self_confidence",
        "--fraction",
        "0.1",
        "--out",
        str(out),
    ]
    found = runner.invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert "6 of 60 training examples are suspect by SelfConfidence" in (out / "report.html").read_text()
    assert "SelfConfidence_rank" in pl.read_csv(out / "issues.csv").columns


def test_value_takes_what_says_how_good_a_label_is(runner, model, tmp_path):
    out = tmp_path / "run"
    found = runner.invoke(app, ["value", f"{model}:build", "--method", "knn_label", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert len(pl.read_csv(out / "values.csv")) == 60


def test_what_a_model_cannot_do_says_what_can(runner, model, tmp_path):
    found = runner.invoke(app, ["clean", f"{model}:build", "--method", "aum", "--out", str(tmp_path / "run")])
    assert found.exit_code != 0
    assert "self_confidence" in found.output
