"""Banks: fits made once, used by runs that would make the same, and by nobody who must not see them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from steelyard import score
from steelyard.collect import bank
from steelyard.collect.fits import Purpose, outcomes
from steelyard.errors import RunError, SettingError
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run
from steelyard.run.packs import count_kept
from steelyard.verify import lds
from tests.problems import additive_problem, ridge_problem, scores_of


def build(path, problem, **settings):
    return bank.build(path, problem, show="quiet", **settings)


def test_a_bank_holds_the_fits_of_its_design_and_grows(tmp_path):
    problem = ridge_problem(noise=0.1)
    build(tmp_path / "bank", problem, fits=10)
    first = bank.read_fits(tmp_path / "bank")
    build(tmp_path / "bank", problem, fits=30)
    fits = bank.read_fits(tmp_path / "bank")
    np.testing.assert_array_equal(fits.weightings[:10], first.weightings)
    np.testing.assert_array_equal(fits.values[:10], first.values)
    assert fits.values.shape == (30, 6)
    assert np.abs(fits.weightings.mean() - 0.5) < 0.1
    manifest = json.loads((tmp_path / "bank" / "manifest.json").read_text())
    assert (manifest["cost"]["fits"], manifest["sessions"], manifest["status"]) == (30, 2, "finished")
    assert build(tmp_path / "bank", problem, fits=5).fits == 30


@pytest.mark.parametrize("design", ["half", "uniform", "bootstrap", "leave-one-out"])
@pytest.mark.parametrize("purpose", ["scoring", "verification"])
def test_every_design_is_stable_and_what_it_says(tmp_path, design, purpose):
    problem = ridge_problem()
    made = build(tmp_path / "bank", problem, fits=9, design=design, purpose=purpose, seeds=2)
    fits = bank.read_fits(tmp_path / "bank")
    rows, numbers = bank.rows(problem, made, range(4, 9))
    np.testing.assert_array_equal(rows, fits.weightings[4:])
    assert numbers == fits.numbers[4:].tolist() == [0, 1, 0, 1, 0]
    if design == "leave-one-out":
        assert fits.weightings.sum(axis=1).tolist() == [40.0, 40.0, *[39.0] * 7]
    if design == "bootstrap":
        drawn = fits.weightings if purpose == "scoring" else fits.weightings[2:]
        assert (drawn.sum(axis=1) == 40).all()
        assert drawn.max() > 1


def test_methods_and_verification_make_no_fit_that_their_bank_has(tmp_path):
    problem = additive_problem(40, noise=0.1)
    build(tmp_path / "half", problem, fits=200)
    build(
        tmp_path / "bags", Problem(problem.learner, problem.train, problem.train), fits=60, design="bootstrap"
    )
    build(tmp_path / "lds", problem, fits=2 + 2 * 16, purpose="verification", seeds=2)
    build(tmp_path / "loo", problem, fits=41, design="leave-one-out")

    def fits_of(name: str, work, purpose: Purpose = "scoring") -> tuple[int, int]:
        alone, helped = in_memory(), in_memory()
        asked = Problem(problem.learner, problem.train, problem.train) if name == "bags" else problem
        bank.lend(tmp_path / name, asked, helped, purpose=purpose)
        np.testing.assert_array_equal(work(alone), work(helped))
        return alone.cost.fits, helped.cost.fits

    truth = scores_of(problem, np.zeros((40, 5)) + np.arange(40)[:, None])
    assert fits_of("half", lambda run: score.by_name("banzhaf", {"fits": "150"})(problem, run).values) == (
        150,
        0,
    )
    assert fits_of("bags", lambda run: score.by_name("data_oob", {"fits": "60"})(problem, run).values) == (
        60,
        0,
    )
    assert fits_of("loo", lambda run: score.LeaveOneOut()(problem, run).values) == (41, 0)
    found = fits_of(
        "lds", lambda run: lds(problem, truth, subsets=16, seeds=2, run=run).estimate, "verification"
    )
    assert found == (32, 0)


def test_a_borrowed_fit_is_kept_so_that_the_run_needs_the_bank_no_more(tmp_path):
    problem = ridge_problem(noise=0.1)
    build(tmp_path / "loo", problem, fits=41, design="leave-one-out")
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        bank.lend(tmp_path / "loo", problem, run, purpose="scoring")
        score.LeaveOneOut()(problem, run)
        assert run.cost.fits == 0
        assert any("bank of 41" in note for note in run.notes)
    assert count_kept(tmp_path / "run", "fits/scoring") == 41


def test_a_bank_is_refused_where_it_does_not_belong(tmp_path):
    problem = ridge_problem(noise=0.1)
    build(tmp_path / "bank", problem, fits=3)
    with pytest.raises(RunError, match="for scoring, not for verification"):
        bank.lend(tmp_path / "bank", problem, in_memory(), purpose="verification")
    for other in (ridge_problem(), ridge_problem(noise=0.1, flip=1), ridge_problem(noise=0.1, query=5)):
        with pytest.raises(RunError, match="something else: the (learner|train|query)"):
            bank.lend(tmp_path / "bank", other, in_memory(), purpose="scoring")
        with pytest.raises(RunError, match="something else"):
            build(tmp_path / "bank", other, fits=3)
    with pytest.raises(RunError, match="seed"):
        bank.lend(
            tmp_path / "bank",
            Problem(problem.learner, problem.train, problem.query, seed=1),
            in_memory(),
            purpose="scoring",
        )
    with pytest.raises(RunError, match="design 'half' there, 'uniform' here"):
        build(tmp_path / "bank", problem, fits=3, design="uniform")
    with pytest.raises(RunError, match="no bank"):
        bank.open_bank(tmp_path)
    with pytest.raises(SettingError):
        build(tmp_path / "new", problem, fits=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("x")
    with pytest.raises(RunError, match="something else"):
        build(tmp_path / "full", problem, fits=3)


def test_a_bank_of_another_version_or_a_broken_one_is_refused(tmp_path):
    problem = ridge_problem()
    build(tmp_path / "bank", problem, fits=3)
    facts = json.loads((tmp_path / "bank" / "bank.json").read_text())
    (tmp_path / "bank" / "bank.json").write_text(json.dumps(facts | {"steelyard": "0.0.0"}))
    with pytest.raises(RunError, match=r"made by Steelyard 0\.0\.0"):
        bank.lend(tmp_path / "bank", problem, in_memory(), purpose="scoring")
    (tmp_path / "bank" / "bank.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        bank.open_bank(tmp_path / "bank")


def test_failed_fits_stay_failed_in_a_bank(tmp_path):
    problem = ridge_problem(needs=("t0003",))
    build(tmp_path / "bank", problem, fits=20)
    fits = bank.read_fits(tmp_path / "bank")
    np.testing.assert_array_equal(np.isnan(fits.values).all(axis=1), fits.weightings[:, 3] == 0)
    run = in_memory()
    bank.lend(tmp_path / "bank", problem, run, purpose="scoring")
    found = outcomes(problem, fits.weightings, [0] * 20, run, purpose="scoring")
    assert run.cost.fits == 0
    assert "t0003 is missing" in found.note()


MODEL = """
import time
import numpy as np
from sklearn.naive_bayes import GaussianNB
import steelyard as sy

class Slow(GaussianNB):
    def fit(self, x, y, sample_weight=None):
        time.sleep(0.02)
        return super().fit(x, y, sample_weight)

def build():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) + np.eye(2)[np.arange(60) % 2]
    y = np.arange(60) % 2
    return sy.learners.Sklearn(Slow()), (x[:50], y[:50]), (x[50:], y[50:])
"""


def steelyard(*arguments: str, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "steelyard", *arguments], env=environment, text=True, **options
    )


@pytest.mark.slow
def test_killed_the_same_command_goes_on_and_extend_finds_model_and_data_again(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    folder = tmp_path / "bank"
    command = [
        "bank",
        "build",
        f"{tmp_path / 'model.py'}:build",
        "--out",
        str(folder),
        "--fits",
        "60",
        "--quiet",
    ]
    process = steelyard(*command)
    while process.poll() is None and len(list(folder.glob("kept/fits/scoring/*.npz"))) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    so_far = len(list(folder.glob("kept/fits/scoring/*.npz")))
    assert 5 <= so_far < 60
    assert steelyard(*command, stdout=subprocess.DEVNULL).wait() == 0
    assert (
        steelyard("bank", "extend", str(folder), "--fits", "70", "--quiet", stdout=subprocess.DEVNULL).wait()
        == 0
    )
    told = steelyard("bank", "info", str(folder), "--json", stdout=subprocess.PIPE)
    facts = json.loads(told.communicate()[0])
    assert (facts["finished"], facts["kept"], facts["purpose"], facts["failed"]) == (70, 70, "scoring", 0)


def test_more_fits_than_the_time_budget_allows_are_refused_with_what_can_be_had(tmp_path, monkeypatch):
    problem = ridge_problem()
    monkeypatch.setattr(
        "steelyard.collect.pace._probe", lambda _: {"fit": np.array(0.5), "gradient": np.array(0.0)}
    )
    with pytest.raises(SettingError, match="about 50 s") as told:
        build(tmp_path / "bank", problem, fits=100, time_budget=10)
    assert "ask for 20 fits or fewer" in told.value.fix
    build(tmp_path / "other", problem, fits=20, time_budget=10)
    assert len(bank.read_fits(tmp_path / "other").values) == 20
