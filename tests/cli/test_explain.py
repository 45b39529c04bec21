"""Explanations by the training examples that a prediction is made of, from the command line."""

import json

import pytest

from steelyard.cli.app import app


@pytest.mark.parametrize("method", ["rps", "rps_lje"])
def test_a_prediction_is_taken_apart_from_the_command_line(runner, model, tmp_path, method):
    out = str(tmp_path / "run")
    found = runner.invoke(app, ["attribute", f"{model}:build", "--method", method, "--out", out, "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout.splitlines()[-1])
    assert told["method"].startswith("RPS")
    assert "pre-activation" in (tmp_path / "run" / "report.html").read_text()


NETWORK = """
import numpy as np
import torch

import steelyard as sy


def build():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    learner = sy.learners.Torch(net, recipe=sy.learners.SGD(lr=0.2, epochs=4))
    return sy.Problem(learner, (x[:40], y[:40]), (x[40:], y[40:]))
"""


def test_kinds_of_pairs_are_in_the_record(runner, tmp_path):
    path = tmp_path / "network_for_cli.py"
    path.write_text(NETWORK)
    arguments = ["attribute", f"{path}:build", "--method", "lpntk", "--out", str(tmp_path / "run"), "--json"]
    found = runner.invoke(app, arguments)
    assert found.exit_code == 0, found.output
    records = [json.loads(p.read_text()) for p in (tmp_path / "run" / "report").rglob("*.json")]
    text = json.dumps(records)
    assert "interchangeable_pairs" in text and "contradictory_pairs" in text


def test_clean_asks_the_influencers(runner, model, tmp_path):
    out = tmp_path / "run"
    arguments = [
        "clean",
        f"{model}:build",
        "--method",
        "inffeed",
        "--fraction",
        "0.2",
        "--out",
        str(out),
        "--json",
    ]
    found = runner.invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert "InfFeed" in (out / "report.html").read_text()


def test_harden_writes_the_moved_examples(runner, tmp_path):
    import polars as pl

    path = tmp_path / "network_for_cli.py"
    path.write_text(NETWORK)
    out = tmp_path / "run"
    arguments = ["harden", f"{path}:build", "--fraction", "0.5", "--rounds", "1", "--out", str(out), "--json"]
    found = runner.invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout.splitlines()[-1])["moved"] == 20
    table = pl.read_parquet(out / "hardened.parquet")
    assert len(table) == 40 and table["hardened"].sum() == 20
