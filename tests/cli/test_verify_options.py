"""``steelyard verify``: what is known (--truth), settings of metrics (--set), and a forecast instead of fits."""

import json
from pathlib import Path

import pytest

from steelyard.cli.app import app
from steelyard.run import read_manifest

MODEL = """
import numpy as np
from sklearn.linear_model import LogisticRegression
import steelyard as sy

def build():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 3))
    right = (x[:, 0] > 0).astype(int)
    wrong = (np.arange(90) % 7 == 0).astype(int)
    train = sy.read((x[:70], (right ^ wrong)[:70]))
    train = train.with_column("wrong", wrong[:70], f"{train.checksum}|wrong")
    train = train.with_column("even", np.arange(70) % 2, f"{train.checksum}|even")
    return sy.Problem(sy.learners.Sklearn(LogisticRegression(C=1.0)), train, (x[70:], right[70:]))
"""


@pytest.fixture
def scored(runner, tmp_path) -> Path:
    """A run on examples of which a column says which labels are wrong: every seventh."""
    path, out = tmp_path / "model_with_truth.py", tmp_path / "scored"
    path.write_text(MODEL)
    given = ["attribute", f"{path}:build", "--method", "gauss_newton", "--no-baselines", "--out", str(out)]
    found = runner.invoke(app, [*given, "-q"])
    assert found.exit_code == 0, found.output
    return out


def evidence(runner, *given: str) -> dict[str, dict]:
    found = runner.invoke(app, ["verify", *given, "--json"])
    assert found.exit_code == 0, found.output
    return {one["metric"]: one for one in json.loads(found.stdout)["evidence"]}


def refused(runner, *given: str) -> str:
    found = runner.invoke(app, ["verify", *given])
    assert found.exit_code == 2, found.output
    return " ".join(found.stderr.split())


def test_truth_names_the_column_of_a_metric(runner, scored):
    found = evidence(runner, str(scored), "--metric", "mislabel_auc", "--truth", "wrong")
    again = evidence(
        runner, str(scored), "--metric", "mislabel_auc", "--truth", "mislabel_auc=wrong", "--fresh"
    )
    estimate = found["mislabel_auc"]["estimate"]
    assert 0.5 < estimate <= 1 and again["mislabel_auc"]["estimate"] == estimate
    # Another truth gives another answer: the column was read.
    other = evidence(runner, str(scored), "--metric", "mislabel_auc", "--truth", "even", "--fresh")
    assert other["mislabel_auc"]["estimate"] != estimate


def test_a_truth_that_is_missing_or_written_wrongly_is_told(runner, scored):
    metric = [str(scored), "--metric", "mislabel_auc"]
    assert "'mislabel'" in refused(runner, *metric, "--truth", "mislabel")
    assert "names no column" in refused(runner, *metric, "--truth", "mislabel_auc=")
    twice = refused(runner, *metric, "--truth", "mislabel_auc=wrong", "--truth", "mislabel_auc=even")
    assert "names a metric twice" in twice and "METRIC=COLUMN" in twice
    assert "--truth" in refused(runner, *metric)
    assert "'mrr', which is not among" in refused(runner, *metric, "--truth", "mrr=wrong")
    assert not (scored / "verified").exists()


def test_set_reaches_its_metric(runner, scored):
    given = [str(scored), "--metric", "qld", "--seeds", "1", "--set", "qld.controls=4"]
    small = evidence(runner, *given, "--set", "qld.share=0.05")["qld"]
    large = evidence(runner, *given, "--set", "qld.share=0.3", "--fresh")["qld"]
    assert small["estimate"] != large["estimate"]
    assert read_manifest(scored / "verified").request["settings"] == {
        "qld": {"controls": "4", "share": "0.3"}
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("share=0.1", "of which metric?"),
        ("qld.shares=0.1", "share"),
        ("qld.share=much", "much"),
        ("qld.share=7", "7"),
        ("qld", "NAME=VALUE"),
        ("qdl.share=0.1", "'qdl', which is not among the metrics asked for; did you mean 'qld'?"),
    ],
)
def test_a_setting_that_makes_no_sense_is_told(runner, scored, given, said):
    assert said in refused(runner, str(scored), "--metric", "qld", "--set", given)
    assert not (scored / "verified").exists()


def test_a_plan_says_how_many_fits_an_effect_takes_and_makes_only_pilots(runner, scored):
    given = ["verify", str(scored), "--metric", "lds,retraining", "--plan-only"]
    found = runner.invoke(app, [*given, "--json"])
    assert found.exit_code == 0, found.output
    forecasts = {one["metric"]: one for one in json.loads(found.stdout)["forecasts"]}
    assert set(forecasts) == {"lds", "retraining"}
    assert all(one["fits"] is None or one["fits"] > 0 for one in forecasts.values())
    pilots = sum(one["pilot"] for one in forecasts.values())
    assert read_manifest(scored / "planned").cost.fits <= pilots + len(forecasts) < 60
    assert not (scored / "verified").exists()
    # A smaller effect takes more fits.
    fits = []
    for effect in ("0.5", "0.1"):
        only = [*given[:3], "lds", "--plan-only", "--effect", effect, "--fresh", "--json"]
        (one,) = json.loads(runner.invoke(app, only).stdout)["forecasts"]
        assert one["effect"] == float(effect)
        fits.append(one["fits"])
    assert fits[1] > fits[0]
    shown = runner.invoke(app, [*given, "--fresh"])
    assert shown.exit_code == 0 and "metric" in shown.stdout and "fit" in shown.stdout
