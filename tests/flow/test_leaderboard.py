"""Leaderboards: cells kept and tried again, failures without a number, ratings, page, and errors of the file."""

import json

import numpy as np
import pytest
from tests.problems import ridge_problem
from typer.testing import CliRunner

from steelyard import flow, report
from steelyard.cli.app import app
from steelyard.errors import DataError, SettingError
from steelyard.records import Leaderboard
from steelyard.run import open_run
from steelyard.score import by_name

METRICS = (flow.Asked("lds", {"subsets": 12}), flow.Asked("qld", {"controls": 4}), flow.Asked("mislabel_auc"))


def tasks() -> list[flow.Task]:
    given = ridge_problem(flip=6)
    wrong = (np.arange(len(given.train)) < 6).astype(int)
    train = given.train.with_column("wrong", wrong, "wrong")
    one = type(given)(given.learner, train, given.query)
    return [
        flow.Task("one", one, {"mislabel_auc": "wrong"}),
        flow.Task("two", ridge_problem(30, 5), weight=2.0),
    ]


def board(run=None) -> Leaderboard:
    methods = {name: by_name(name) for name in ("leave_one_out", "ekfac")}
    return flow.leaderboard(tasks(), methods, METRICS, run=run)


def test_every_method_stands_beside_the_baselines_and_the_true_one_leads():
    found = board()
    many = [s for s in found.standings if s.games > 1]  # the loss has one game, which it may win
    assert many[0].method == "leave_one_out"
    roles = {s.method: s.role for s in found.standings}
    assert roles["random"] == "baseline" and roles["leave_one_out"] == "method"
    assert found.cell("one", "leave_one_out", "lds").evidence.estimate > 0.5
    leader = many[0]
    assert leader.low <= leader.rating <= leader.high and leader.games == 5


def test_what_cannot_be_done_has_no_number_and_is_shown():
    found = board()
    missing = found.cell("one", "ekfac", "lds")
    assert missing.evidence is None and not missing.applies and "gradients" in missing.problem
    assert found.cell("two", "leave_one_out", "mislabel_auc").evidence is None
    rows = report.leaderboard.frame(found).filter(method="ekfac")
    assert rows["estimate"].null_count() == len(rows)
    page = report.leaderboard.render(found)
    assert "does not apply" in page and "ekfac" in page and "<script" not in page
    assert page == report.leaderboard.render(found)


def test_finished_cells_are_read_again(tmp_path):
    with open_run(tmp_path / "run", {"test": 1}, show="quiet") as run:
        first = board(run)
        spent = run.cost.fits
        again = board(run)
        assert run.cost.fits == spent
        assert again.standings == first.standings and again.cells == first.cells
        path = first.save(run.path("leaderboard.json"))
        loaded = Leaderboard.load(path)
        assert loaded.standings == first.standings and loaded.cells[0].evidence == first.cells[0].evidence
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DataError, match="no leaderboard"):
        Leaderboard.load(tmp_path / "other.json")


def test_wrong_metrics_and_names_are_refused():
    with pytest.raises(SettingError, match="no metric 'ldss'"):
        flow.leaderboard(tasks(), {}, [flow.Asked("ldss")])
    with pytest.raises(SettingError, match="no setting 'sub'"):
        flow.leaderboard(tasks(), {}, [flow.Asked("lds", {"sub": 3})])
    with pytest.raises(SettingError, match="different names"):
        flow.leaderboard([tasks()[0]] * 2, {}, METRICS)


MODEL = """
import numpy as np
from sklearn.linear_model import LogisticRegression
from steelyard.learners import Sklearn
from steelyard.problem import Problem

def build():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(70, 3)); y = (x[:, 0] > 0).astype(int)
    return Problem(Sklearn(LogisticRegression()), (x[:60], y[:60]), (x[60:], y[60:]))
"""
CONFIG = """\
tasks:
  small:
    model: model.py:build
methods:
  - gauss_newton
  - random: {seed: 3}
metrics:
  - lds: {subsets: 10}
  - class_detection
"""


def invoke(tmp_path, text: str, *options: str):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "board.yaml").write_text(text)
    return CliRunner().invoke(
        app,
        ["leaderboard", str(tmp_path / "board.yaml"), "--out", str(tmp_path / "out"), "--quiet", *options],
    )


def test_the_command_writes_page_table_and_record_and_goes_on(tmp_path):
    done = invoke(tmp_path, CONFIG)
    assert done.exit_code == 0, done.output
    assert "gauss_newton" in done.output and "random" in done.output
    for name in ("leaderboard.json", "leaderboard.csv", "leaderboard.html"):
        assert (tmp_path / "out" / name).stat().st_size > 500
    again = invoke(tmp_path, CONFIG, "--json")
    assert json.loads(again.stdout)["standings"][0]["rating"] > 1500


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("metrics:", "metrix:", "line 7, metrix"),
        ("subsets: 10", "subset: 10", "line 8, metrics.1: lds has no setting 'subset'"),
        ("- class_detection", "- clas_detection", "line 9, metrics.2"),
        ("- gauss_newton", "- gauss_newto", "line 5, methods.1"),
        ("model.py:build", "model.py:buil", "line 2, tasks.small"),
        ("tasks:", "tasks: [", "line"),
        ("  - class_detection\n", "  - class_detection\nmethods: [bm25]\n", "stands there twice"),
    ],
)
def test_errors_of_the_file_name_line_and_key(tmp_path, old, new, wanted):
    refused = invoke(tmp_path, CONFIG.replace(old, new))
    assert refused.exit_code == 2
    assert wanted in refused.output.replace("\n", " ")
