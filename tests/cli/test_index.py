"""``steelyard index``: build, go on, append, ask, and say what is there."""

import json
from pathlib import Path

import numpy as np
import pytest

from steelyard.cli.app import app

MODEL = '''
"""A small network, trained or to be trained, without data."""

import torch
from torch import nn

import steelyard as sy


def _net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))


def trained():
    return sy.learners.Torch(_net(0), trained=True)


def other():
    return sy.learners.Torch(_net(1), trained=True)


def learner():
    return sy.learners.Torch(_net(0), recipe=sy.learners.SGD(lr=0.1, epochs=2, batch_size=16))


def linear():
    from sklearn.linear_model import LogisticRegression

    return sy.learners.Sklearn(LogisticRegression())
'''


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "network_for_cli.py"
    path.write_text(MODEL)
    return path


def write(path: Path, count: int, *, seed: int, prefix: str) -> Path:
    x = np.random.default_rng(seed).normal(size=(count, 3))
    rows = [{"input": list(row), "label": int(row[0] > 0), "id": f"{prefix}-{i}"} for i, row in enumerate(x)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def vectors(tmp_path: Path) -> tuple[Path, Path]:
    """Training examples and queries of one input column."""
    return (
        write(tmp_path / "train_vectors.jsonl", 60, seed=0, prefix="train"),
        write(tmp_path / "query_vectors.jsonl", 8, seed=1, prefix="query"),
    )


@pytest.mark.parametrize("command", ["build", "query", "info"])
def test_every_command_has_help_with_an_example(runner, command):
    found = runner.invoke(app, ["index", command, "--help"])
    assert found.exit_code == 0
    assert f"Example: steelyard index {command}" in " ".join(found.output.split())


@pytest.mark.parametrize("function", ["trained", "learner"])
def test_build_append_and_ask(runner, network, vectors, tmp_path, function):
    train, query = vectors
    store, model = tmp_path / "store", f"{network}:{function}"
    build = [
        "index",
        "build",
        model,
        "--train",
        str(train),
        "--out",
        str(store),
        "--id-column",
        "id",
        "--rank",
        "4",
    ]
    found = runner.invoke(app, build)
    assert found.exit_code == 0, found.output
    assert "60 examples x 32 numbers of 2 layers in int8" in found.output
    assert runner.invoke(app, build).output == found.output
    ask = ["index", "query", str(store), model, "--query", str(query), "--id-column", "id", "--top", "2"]
    answer = runner.invoke(app, ask)
    assert answer.exit_code == 0, answer.output
    assert "60 examples searched" in answer.output
    assert "score (nats)" in answer.output
    as_json = json.loads(runner.invoke(app, [*ask, "--json", "--score", "cosine"]).stdout)
    assert len(as_json["top"]) == 8 * 2 * 2
    assert as_json["unit"] == "rank"
    assert all(-1.05 <= row["score"] <= 1.05 for row in as_json["top"])
    more = write(tmp_path / "more.jsonl", 12, seed=4, prefix="more")
    grow = [*build[:3], "--train", str(more), *build[5:]]
    refused = runner.invoke(app, grow)
    assert refused.exit_code == 2
    assert "--append" in refused.output
    assert runner.invoke(app, [*grow, "--append"]).exit_code == 0
    facts = json.loads(runner.invoke(app, ["index", "info", str(store), "--check", "--json"]).stdout)
    assert facts["rows"] == 72
    assert facts["checked"] is True
    assert [part["rows"] for part in facts["parts"]] == [60, 12]
    assert facts["parts"][0]["agreement"]["spearman_mean"] > 0.98
    assert "every checksum is right" in runner.invoke(app, ["index", "info", str(store), "--check"]).output


def test_errors_name_the_fix(runner, network, vectors, tmp_path):
    train, query = vectors
    store = tmp_path / "store"
    build = [
        "index",
        "build",
        f"{network}:trained",
        "--train",
        str(train),
        "--out",
        str(store),
        "--id-column",
        "id",
    ]
    assert runner.invoke(app, [*build, "--features", "20"]).exit_code == 0
    ask = ["--query", str(query), "--id-column", "id"]
    for given, words in (
        (["index", "query", str(store), f"{network}:other", *ask], "another model"),
        (["index", "query", str(tmp_path / "none"), f"{network}:trained", *ask], "not a gradient store"),
        (["index", "query", str(store), f"{network}:trained", *ask, "--damping", "much"], "--damping"),
        (["index", "query", str(store), f"{network}:trained"], "--query"),
        (["index", "info", str(tmp_path)], "not a gradient store"),
        (build, "features=20, not 0"),
        ([*build[:2], f"{network}:linear", *build[3:5], "--out", str(tmp_path / "l")], "network"),
        ([*build, "--modules", "*.mlp.*", "--out", str(tmp_path / "m")], "no layer matches"),
    ):
        found = runner.invoke(app, given)
        assert found.exit_code == 2, (given, found.output)
        assert words in " ".join(found.output.split()), found.output
        assert "fix:" in found.output
