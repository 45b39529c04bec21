"""Training in stages on chosen examples, and ``steelyard select``."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from typer.testing import CliRunner

import steelyard as sy
from steelyard import act, flow, score
from steelyard.cli.app import app
from steelyard.collect.fits import explained
from steelyard.collect.probing import probe_groups
from steelyard.errors import CapabilityError, SettingError
from steelyard.learners import SGD, Sklearn, Torch
from steelyard.records import Plan
from steelyard.run import Run, in_memory

pytestmark = pytest.mark.systems


def half_wrong(seed: int = 0, *, lr: float = 0.2) -> sy.Problem:
    """Two classes; every second label of the pool is wrong, those of the queries are right."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(140, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.int64)
    given = y.copy()
    given[:100:2] = 1 - given[:100:2]
    data = sy.read({"input": x, "label": given, "id": [f"r{i:03d}" for i in range(140)]})
    torch.manual_seed(0)
    learner = Torch(
        nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), recipe=SGD(lr=lr, epochs=3, batch_size=8)
    )
    return sy.Problem(learner, data.take(slice(0, 100)), data.take(slice(100, None)), seed=seed)


def test_stages_go_on_from_one_another_and_ask_in_between():
    problem, seen = half_wrong(), []

    def choose(now: sy.Problem, stage: int, run: Run) -> Plan:
        fitted = explained(now, run)
        seen.append((stage, now.learner.measure(fitted, now.query).mean(), now.train.checksum))
        return act.keep(score.Random(seed=stage)(now), count=20)

    found = flow.train_in_stages(problem, choose, stages=3, count=20)
    assert [stage for stage, *_ in seen] == [1, 2]
    # What choosing is shown is the model that the stage before has left.
    np.testing.assert_allclose([loss for _, loss, _ in seen], found.measured[:2].mean(axis=1), rtol=1e-6)
    assert found.measured.shape == (3, 40)
    assert [len(plan) for plan in found.plans] == [20, 20, 20]
    # By hand: the first stage alone.
    first = problem.learner.fit(found.plans[0].apply(problem.train), seed=0)
    np.testing.assert_allclose(problem.learner.measure(first, problem.query), found.measured[0], rtol=1e-6)
    again = flow.train_in_stages(problem, choose, stages=3, count=20)
    np.testing.assert_array_equal(found.measured, again.measured)


def test_a_stage_of_no_length_changes_nothing():
    problem = half_wrong(lr=1e-12)
    first = problem.learner.fit(problem.train, seed=0)
    same = problem.learner.continuing(first).fit(problem.train, seed=5)
    np.testing.assert_allclose(
        problem.learner.measure(same, problem.query), problem.learner.measure(first, problem.query), atol=1e-6
    )


def test_choosing_what_probes_call_best_and_worst_are_far_apart():
    """A wrong sign anywhere between probe and plan would turn them round."""
    problem = half_wrong()
    best = flow.choose_by(score.MATES(share=1, rate=0.05), count=40, temperature=0.2)
    ways = {"best": best, "worst": _worst, "random": flow.choose_by("random", count=40, temperature=0)}
    found = {name: flow.train_in_stages(problem, way, stages=2, count=40) for name, way in ways.items()}
    ends = {name: made.measured[-1].mean() for name, made in found.items()}
    right = {name: np.mean([int(str(i)[1:]) % 2 for i in made.plans[-1].ids]) for name, made in found.items()}
    assert ends["best"] < ends["random"] < ends["worst"] - 0.3
    assert right["best"] > right["random"] > right["worst"] + 0.2
    np.testing.assert_array_equal(
        found["best"].measured[0], found["worst"].measured[0]
    )  # the same first stage


def _worst(now: sy.Problem, stage: int, run: Run) -> Plan:
    scores = score.MATES(share=1, rate=0.05)(now, run)
    return act.keep(replace(scores, values=-np.asarray(scores.values)), count=40)


def test_what_choosing_costs_is_counted_and_agreement_is_told():
    problem, run = half_wrong(), in_memory()
    way = flow.choose_by(score.MATES(share=0.3, rate=0.05), count=20)
    found = flow.train_in_stages(problem, way, stages=2, count=20, run=run)
    assert 30 * (1 + 40 / 3) < found.choosing.gradients < 30 * (1 + 2 * 40 / 3) + 2 * 100
    assert found.choosing.seconds > 0
    assert found.facts[0] == {}
    assert -1 <= found.facts[1]["held_out"][0]["spearman_of_means"] <= 1


def test_probing_all_gives_the_gains_themselves():
    problem = half_wrong()
    fitted = problem.learner.fit(problem.train)
    rows = [np.array([i]) for i in range(100)]
    truth = probe_groups(problem, fitted, rows, in_memory(), rate=0.05, method="t")[:, 0]
    np.testing.assert_allclose(score.MATES(share=1, rate=0.05)(problem).values, truth, atol=1e-7)


def test_bad_input_is_refused():
    problem = half_wrong()
    way = flow.choose_by("random", count=20)
    with pytest.raises(SettingError, match="stages=1"):
        flow.train_in_stages(problem, way, stages=1, count=20)
    table = sy.Problem(Sklearn(LogisticRegression()), problem.train, problem.query)
    with pytest.raises(CapabilityError, match="goes on from a model"):
        flow.train_in_stages(table, way, stages=2, count=20)
    with pytest.raises(SettingError, match="temperature=-1"):
        flow.select(problem, fraction=0.2, temperature=-1)
    with pytest.raises(SettingError, match="exactly one"):
        flow.select(problem, method="random")


MODEL = """
import numpy as np
from sklearn.linear_model import LogisticRegression
import steelyard as sy


def build():
    x = np.random.default_rng(0).normal(size=(60, 3))
    y = (x[:, 0] > 0).astype(int)
    learner = sy.learners.Sklearn(LogisticRegression())
    return sy.Problem(learner, {"input": x[:50], "label": y[:50]}, {"input": x[50:], "label": y[50:]})
"""


@pytest.mark.parametrize("given", [["--fraction", "0.2"], ["--count", "10", "--temperature", "0.5"]])
def test_select_writes_a_plan_with_weights(tmp_path, given):
    (tmp_path / "model.py").write_text(MODEL)
    out = tmp_path / "run"
    asked = ["select", f"{tmp_path / 'model.py'}:build", "--out", str(out), "--method", "knn_shapley", *given]
    found = CliRunner().invoke(app, [*asked, "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert [plan["action"] for plan in told["plans"]] == ["keep"]
    chosen = pl.read_csv(out / "selected.csv", schema_overrides={"train_id": pl.String})
    assert chosen.columns == ["train_id", "weight", "score", "reason"]
    assert chosen["train_id"].to_list() == told["plans"][0]["ids"]
    assert len(chosen) == 10 and (chosen["weight"] == 1).all()
    if "--fraction" in given:
        assert chosen["score"].is_sorted(descending=True)
    again = CliRunner().invoke(app, [*asked, "--json"])
    assert json.loads(again.stdout)["plans"] == told["plans"]


def test_select_needs_a_size(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    asked = ["select", f"{tmp_path / 'model.py'}:build", "--out", str(tmp_path / "run"), "--method", "random"]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 2
    assert "exactly one" in found.output
