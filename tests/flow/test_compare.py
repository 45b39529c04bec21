"""Comparisons of systems: a planted good plan wins, random does not, budgets hold, work is kept, bad files are told."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from tests.problems import ridge_problem
from typer.testing import CliRunner

from steelyard import flow, report
from steelyard.act.system import SystemCard, effective, planned, signal, spread
from steelyard.cli.app import app
from steelyard.collect.designs import random_like
from steelyard.errors import DataError, NumericsError, SettingError
from steelyard.flow.comparing import Terms, compare
from steelyard.flow.systems import SYSTEMS, Clean, Top, system_by_name, system_class
from steelyard.records import Comparison
from steelyard.run import open_run

pytestmark = pytest.mark.systems
CARD = SystemCard("none", "none", "nothing", "nothing", "tests")
TERMS = Terms(budget=0.4, changes=0.2, seeds=2, controls=8)


@dataclass(frozen=True)
class Fixed:
    """Keeps the first examples by id, or draws them, or spends more than it may."""

    how: str = "first"
    card: ClassVar[SystemCard] = CARD

    def __call__(self, problem, budget, seed, run):
        weights = np.zeros(len(problem.train))
        rows = np.arange(len(weights))
        if self.how == "random":
            rows = np.random.default_rng(5).permutation(rows)
        # ridge_problem plants its wrong labels in the first rows
        chosen = {"first": rows[:budget], "last": rows[-budget:], "random": rows[:budget], "all": rows}[
            self.how
        ]
        weights[chosen] = 1.0
        return planned(problem, weights, lambda row: "as asked", system=self, run=run, seed=seed)


def task(name="one"):
    return flow.Task(name, ridge_problem(200, 24, flip=100))


def test_the_good_plan_beats_random_and_the_bad_one_is_worse_and_a_random_one_neither():
    found = compare([task()], {"bad": Fixed("first"), "good": Fixed("last"), "luck": Fixed("random")}, TERMS)
    verdicts = {row.system: row.effect.verdict for row in found.rows if row.effect}
    assert (
        verdicts["good"] == "confirmed"
        and verdicts["bad"] == "refuted"
        and verdicts["luck"] == "inconclusive"
    )
    random = found.row("one", "random").effect
    assert random.estimate == 0 and random.low < 0 < random.high
    good = found.row("one", "good")
    assert good.effective == 80 and good.effect.measured < random.measured
    assert found.row("one", "rs2").effect is None and not found.row("one", "rs2").applies
    words = report.comparison.in_words(found)
    assert (
        "good beats random" in words
        and "worse than random: bad" in words
        and "told apart from random: luck" in words
    )


def test_what_spends_more_than_the_budget_has_no_effect():
    found = compare([task()], {"all": Fixed("all")}, TERMS)
    row = found.row("one", "all")
    assert row.effect is None and row.applies and "more than the budget of 80" in row.problem


def test_cleaning_is_judged_against_random_plans_that_change_as_much():
    found = compare([task()], {"clean": Clean(method="leave_one_out")}, TERMS)
    row = found.row("one", "clean")
    assert row.does == "drops 40 of 200 examples" and row.effect.verdict == "confirmed"


def test_plans_and_fits_are_kept_and_the_record_comes_back(tmp_path):
    systems = {"top": Top(method="leave_one_out"), "random": None}
    with pytest.raises(SettingError, match="beside in any case"):
        compare([task()], systems, TERMS)
    del systems["random"]
    with open_run(tmp_path / "run", {"test": 1}, show="quiet") as run:
        first = compare([task()], systems, TERMS, run=run)
        spent = run.cost.fits
        again = compare([task()], systems, TERMS, run=run)
        assert run.cost.fits == spent and again.rows == first.rows
        loaded = Comparison.load(first.save(run.path("comparison.json")))
    assert loaded.rows == first.rows and first.row("one", "top").cost.fits == 201
    page = report.comparison.render(first)
    assert page == report.comparison.render(loaded) and "<script" not in page and "top" in page
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(DataError, match="no comparison"):
        Comparison.load(tmp_path / "no.json")


def test_the_weights_of_a_plan_are_kept_with_it():
    problem = ridge_problem(30, 8)
    weights = np.where(np.arange(30) < 5, 2.0, 0.0)
    from steelyard.records.plan import plan_from_json, plan_to_json
    from steelyard.run import in_memory

    plan = planned(problem, weights, lambda row: "heavy", system=Fixed(), run=in_memory(), seed=0)
    assert plan.action == "weigh" and np.array_equal(plan.weights_for(problem.train), weights)
    back = plan_from_json(plan_to_json(plan))
    assert np.array_equal(back.weights_for(problem.train), weights) and back.reasons == plan.reasons
    other = random_like(plan, problem.train, 1).weights_for(problem.train)
    assert other.sum() == 10 and not np.array_equal(other, weights)


def test_weights_that_collapse_are_spread_to_an_effective_number():
    weights = np.array([1.0, 1e-6, 1e-7, 1e-5, 0.0])
    assert effective(weights) < 1.01
    found, note = spread(weights, 3)
    assert effective(found) == pytest.approx(3, rel=1e-3) and found.sum() == pytest.approx(weights.sum())
    assert (
        found[4] == 0
        and np.array_equal(np.argsort(found), np.argsort(weights))
        and "amounted to 1.0 of 4" in note
    )
    same, silent = spread(np.ones(4), 3)
    assert np.array_equal(same, np.ones(4)) and silent == ""
    with pytest.raises(NumericsError, match="not finite"):
        spread(np.array([1.0, np.nan]), 1)


def test_a_target_without_signal_is_told_and_one_with_signal_is_not():
    p_values = []
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(size=(40, 20))
        p_values.append(signal(noise, np.random.default_rng(seed), who="x")[0])
    assert 0.3 < np.mean(p_values) < 0.7 and np.mean(np.array(p_values) <= 0.05) < 0.2
    noise = np.random.default_rng(0).normal(size=(40, 20))
    found, note = signal(noise + np.linspace(-2, 2, 40)[:, None], np.random.default_rng(0), who="x")
    assert found == 0.001 and note == ""
    assert "no signal" in signal(noise - noise.mean(axis=1)[:, None], np.random.default_rng(0), who="x")[1]
    assert "too few" in signal(noise[:, :2], np.random.default_rng(0), who="x")[1]


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_system_describes_itself_and_can_be_had_by_name(name):
    kind = system_class(name)
    assert kind.card.paper and kind.card.cost and kind.__doc__ and "Cost:" in kind.__doc__
    assert system_by_name(name) == kind()


MODEL = """
import numpy as np
from sklearn.linear_model import LogisticRegression
from steelyard.learners import Sklearn
from steelyard.problem import Problem

def build():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(90, 3)); y = (x[:, 0] + draw.normal(size=90) > 0).astype(int)
    return Problem(Sklearn(LogisticRegression()), (x[:60], y[:60]), (x[60:], y[60:]))
"""
CONFIG = """\
budget: 0.4
seeds: 1
controls: 5
tasks:
  small:
    model: model.py:build
systems:
  - top: {method: gauss_newton}
"""


def invoke(tmp_path, text, *more):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "compare.yaml").write_text(text)
    arguments = [
        "act",
        "compare",
        str(tmp_path / "compare.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
        *more,
    ]
    return CliRunner().invoke(app, arguments)


def test_the_command_writes_page_table_and_record_and_reads_them_again(tmp_path):
    done = invoke(tmp_path, CONFIG)
    assert done.exit_code == 0, done.output
    assert "random" in done.output and "does not apply: small, rs2" in done.output
    for name in ("comparison.json", "comparison.csv", "comparison.html"):
        assert (tmp_path / "out" / name).stat().st_size > 400
    again = invoke(tmp_path, CONFIG, "--json")
    assert again.exit_code == 0 and '"rows"' in again.stdout


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("budget: 0.4", "budget: 1.4", "line 1, budget"),
        ("controls: 5", "controls: 1", "line 3, controls"),
        ("- top", "- topp", "there is no system 'topp'; did you mean 'top'?"),
        ("{method:", "{methd:", "top has no setting 'methd'"),
        ("systems:", "system:", "line 7, system"),
    ],
)
def test_errors_of_the_file_name_line_and_key(tmp_path, old, new, wanted):
    refused = invoke(tmp_path, CONFIG.replace(old, new))
    assert refused.exit_code == 2 and wanted in " ".join(refused.output.split())


def test_too_few_queries_and_senseless_terms_are_refused():
    with pytest.raises(SettingError, match="halved"):
        compare([flow.Task("one", ridge_problem(30, 3))], {"top": Top()}, TERMS)
    with pytest.raises(SettingError, match="budget=2.0"):
        Terms(budget=2.0)
    with pytest.raises(SettingError, match="controls=2"):
        Terms(controls=2)
