"""Fits that go wrong, from the command line: each is measured, counted and named, and none becomes a number."""

import json
from pathlib import Path

import numpy as np
import pytest

from steelyard.cli.app import app
from steelyard.run import read_manifest

MODEL = """
import os
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
import steelyard as sy

class Fickle(GaussianNB):
    def fit(self, x, y, sample_weight=None):
        super().fit(x, y, sample_weight)
        draw = np.random.default_rng(int.from_bytes(os.urandom(4), "big"))
        self.theta_ = self.theta_ + 0.05 * draw.normal(size=self.theta_.shape)
        return self

class Fragile(GaussianNB):
    def fit(self, x, y, sample_weight=None):
        if not (np.abs(x[:, 0] - 1.25) < 1e-12).any():
            raise ValueError("the anchor is missing")
        return super().fit(x, y, sample_weight)

def _data(n, seed, rare=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)); y = (x[:, 0] > 0).astype(int)
    x[0, 0] = 1.25; y[0] = 1
    if rare: y[3] = 2
    return x, y

def fickle(): return sy.Problem(sy.learners.Sklearn(Fickle()), _data(60,0), _data(8,1))
def fragile(): return sy.Problem(sy.learners.Sklearn(Fragile()), _data(60,0), _data(8,1))
def rare(): return sy.Problem(sy.learners.Sklearn(LogisticRegression()), _data(60,0,True), _data(8,1))
def constant():
    (x, y), (far, right) = _data(60, 0), _data(8, 1)
    learner = sy.learners.Sklearn(LogisticRegression(), measurement="accuracy")
    return sy.Problem(learner, (x + 5 * np.sign(x), y), (6 * np.sign(far), right))
"""


@pytest.fixture
def models(tmp_path) -> Path:
    path = tmp_path / "model_with_bad_fits.py"
    path.write_text(MODEL)
    return path


def valued(runner, models: Path, name: str, method: str = "banzhaf"):
    out = models.parent / name
    given = ["value", f"{models}:{name}", "--method", method, "--set", "fits=48", "--out", str(out), "--json"]
    return runner.invoke(app, given), out


def test_a_fit_that_does_not_repeat_itself_is_measured_and_named(runner, models):
    found, out = valued(runner, models, "fickle")
    assert found.exit_code == 0, found.output
    (note,) = [note for note in read_manifest(out).notes if "differ by up to" in note]
    assert "two fits of the same examples with the same seed" in note and "nats on a query" in note
    assert note in json.dumps(json.loads((out / "manifest.json").read_text()), ensure_ascii=False)
    assert "differ by up to" in (out / "report.html").read_text()


def test_fits_that_fail_are_counted_and_what_only_they_could_say_is_refused(runner, models):
    found, out = valued(runner, models, "fragile")
    assert found.exit_code == 2
    said = json.loads(found.stderr.splitlines()[-1])
    assert (
        "of 48 fits failed and are left out" in said["problem"] and "the anchor is missing" in said["problem"]
    )
    assert not out.exists()


def test_verification_counts_fits_that_fail(runner, models):
    out = models.parent / "scored"
    given = ["attribute", f"{models}:fragile", "--method", "embedding_cosine", "--no-baselines", "-q"]
    assert runner.invoke(app, [*given, "--out", str(out)]).exit_code == 0
    found = runner.invoke(app, ["verify", str(out), "--metric", "lds", "--subsets", "24", "--json"])
    assert found.exit_code == 0, found.output
    notes = " ".join(read_manifest(out / "verified").notes) + found.stdout
    assert "of 24 fits failed and are left out" in notes and "the anchor is missing" in notes


def test_subsets_that_lose_a_class_give_finite_values(runner, models):
    found, _ = valued(runner, models, "rare")
    assert found.exit_code == 0, found.output
    values = json.loads(found.stdout)["values"]
    assert len(values) == 60
    assert np.isfinite(
        [number for row in values for number in row.values() if isinstance(number, float)]
    ).all()


def test_outcomes_that_are_all_the_same_say_nothing_and_are_refused(runner, models):
    found, out = valued(runner, models, "constant")
    assert found.exit_code == 2
    said = json.loads(found.stderr.splitlines()[-1])
    assert "the accuracy of every query was the same after all 48 fits" in said["problem"]
    assert "finer" in said["fix"] and not out.exists()
