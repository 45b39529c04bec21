"""Every command through typer: what it prints, what it leaves, its exit codes."""

import json

import pytest

from steelyard.cli.app import app
from steelyard.records import Plan, Scores
from steelyard.score import METHODS

COMMANDS = ("attribute", "value", "clean", "verify", "report", "methods", "demo")


def test_help_names_every_command(runner):
    out = runner.invoke(app, ["--help"]).output
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(runner, command):
    found = runner.invoke(app, [command, "--help"])
    assert found.exit_code == 0
    assert f"Example: steelyard {command}" in " ".join(found.output.split())


def test_version(runner):
    assert runner.invoke(app, ["--version"]).output.startswith("steelyard ")


def test_methods_lists_all_with_their_cards(runner):
    text = runner.invoke(app, ["methods"]).output
    listed = json.loads(runner.invoke(app, ["methods", "--json"]).output)
    assert [row["name"] for row in listed] == list(METHODS)
    assert all(row[key] for row in listed for key in ("paper", "needs", "cost", "good_for"))
    assert all(name in text for name in METHODS)
    markdown = runner.invoke(app, ["methods", "--markdown"]).output
    assert markdown.startswith("| name | paper |")
    assert len(markdown.splitlines()) == 2 + len(METHODS)


def test_attribute_leaves_scores_and_a_report(runner, model, tmp_path):
    out = tmp_path / "run"
    given = ["attribute", f"{model}:build", "--method", "gauss_newton", "--out", str(out)]
    found = runner.invoke(app, given)
    assert found.exit_code == 0, found.output
    assert "GaussNewton: 60 training examples, 8 queries" in found.output
    assert str(out / "report.html") in found.output.replace("\n", "")
    scores = Scores.load(out / "report" / "scores" / "00-GaussNewton")
    assert scores.values.shape == (60, 8)
    again = runner.invoke(app, given)
    assert again.exit_code == 0
    assert again.output == found.output


def test_attribute_as_json_is_one_object(runner, model, tmp_path):
    out = tmp_path / "run"
    given = [
        "attribute",
        f"{model}:build",
        "--method",
        "gauss_newton",
        "--out",
        str(out),
        "--json",
        "--top",
        "2",
    ]
    found = runner.invoke(app, given)
    result = json.loads(found.stdout)
    assert result["method"] == "GaussNewton(damping='auto')"
    assert len(result["top"]) == 8 * 2 * 2
    for line in found.stderr.splitlines():
        assert "event" in json.loads(line)


def test_settings_reach_the_method(runner, model, tmp_path):
    out = tmp_path / "run"
    given = [
        "attribute",
        f"{model}:build",
        "--method",
        "gauss_newton",
        "--set",
        "damping=0.5",
        "--out",
        str(out),
    ]
    assert runner.invoke(app, given).exit_code == 0
    scores = Scores.load(out / "report" / "scores" / "00-GaussNewton")
    assert scores.method == "GaussNewton(damping=0.5)"
    assert scores.provenance.given["damping"] == 0.5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--method", "ekfc"], "did you mean 'ekfac'"),
        (["--method", "gauss_newton", "--set", "dampin=1"], "did you mean 'damping'"),
        (["--method", "gauss_newton", "--set", "damping"], "is not NAME=VALUE"),
        (["--method", "gauss_newton", "--set", "damping=1", "--set", "damping=2"], "twice"),
        (["--method", "ekfac"], "EKFAC"),
    ],
)
def test_errors_say_the_fix_and_exit_with_two(runner, model, tmp_path, extra, message):
    found = runner.invoke(app, ["attribute", f"{model}:build", "--out", str(tmp_path / "run"), *extra])
    assert found.exit_code == 2
    assert message in found.stderr
    assert "fix: " in found.stderr
    assert found.stdout == ""


def test_another_request_does_not_enter_the_folder(runner, model, tmp_path):
    given = ["attribute", f"{model}:build", "--no-baselines", "--out", str(tmp_path / "run")]
    assert runner.invoke(app, [*given, "--method", "gauss_newton"]).exit_code == 0
    found = runner.invoke(app, [*given, "--method", "grad_dot"])
    assert found.exit_code == 2
    assert "--fresh" in found.stderr
    assert runner.invoke(app, [*given, "--method", "grad_dot", "--fresh"]).exit_code == 0


def test_value_writes_a_table(runner, model, tmp_path):
    import polars as pl

    out = tmp_path / "run"
    found = runner.invoke(app, ["value", f"{model}:build", "--out", str(out)])
    assert found.exit_code == 0, found.output
    values = pl.read_csv(out / "values.csv", schema_overrides={"train_id": pl.String})
    assert values.columns == ["train_id", "value", "low", "high"]
    assert len(values) == 60
    assert values["value"].is_sorted()
    assert (values["low"] <= values["value"]).all()
    # A method that says how atypical an example is does not value it.
    refused = runner.invoke(
        app, ["value", f"{model}:build", "--method", "self_influence", "--out", str(tmp_path / "other")]
    )
    assert refused.exit_code == 2
    assert "not what it is worth" in refused.stderr


def test_clean_leaves_plans_that_can_be_applied(runner, model, tmp_path):
    import polars as pl

    from steelyard.cli.model import DataOptions, load_problem

    out = tmp_path / "run"
    found = runner.invoke(app, ["clean", f"{model}:build", "--fraction", "0.1", "--out", str(out)])
    assert found.exit_code == 0, found.output
    issues = pl.read_csv(out / "issues.csv")
    assert len(issues) == 6
    assert issues.columns[:4] == ["train_id", "label", "proposed_label", "reason"]
    problem = load_problem(f"{model}:build", DataOptions(), seed=0, trust=False)
    plan = Plan.load(out / "report" / "plans" / "00-drop.jsonl")
    assert len(plan.apply(problem.train)) == 54


def test_verify_adds_evidence_beside_the_run(runner, model, tmp_path):
    out = tmp_path / "run"
    given = ["attribute", f"{model}:build", "--method", "gauss_newton", "--no-baselines", "--out", str(out)]
    assert runner.invoke(app, given).exit_code == 0
    given = ["verify", str(out), "--metric", "lds,retraining", "--subsets", "16", "--json"]
    found = runner.invoke(app, given)
    assert found.exit_code == 0, found.output
    evidence = {one["metric"]: one for one in json.loads(found.stdout)["evidence"]}
    assert set(evidence) == {"lds", "retraining"}
    assert evidence["lds"]["verdict"] == "confirmed"
    assert (out / "verified" / "report.html").exists()
    wrong = runner.invoke(app, ["verify", str(out), "--metric", "ldss", "--fresh"])
    assert wrong.exit_code == 2
    assert "did you mean 'lds'" in wrong.stderr


def test_verify_refuses_changed_data(runner, model, tmp_path):
    out = tmp_path / "run"
    given = ["attribute", f"{model}:build", "--method", "gauss_newton", "--no-baselines", "--out", str(out)]
    assert runner.invoke(app, given).exit_code == 0
    model.write_text(model.read_text().replace("_data(60, 0)", "_data(60, 2)"))
    found = runner.invoke(app, ["verify", str(out)])
    assert found.exit_code == 2
    assert "the train changed since the run" in found.stderr


def test_report_needs_neither_model_nor_data(runner, model, tmp_path):
    out = tmp_path / "run"
    given = ["attribute", f"{model}:build", "--method", "gauss_newton", "--no-baselines", "--out", str(out)]
    first = runner.invoke(app, given).output
    model.unlink()
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert runner.invoke(app, ["report", str(out)]).output == first
    assert (out / "report.html").read_text() == page
    missing = runner.invoke(app, ["report", str(tmp_path / "none")])
    assert missing.exit_code == 2
    assert "there is no report here" in missing.stderr


def test_ctrl_c_exits_with_130_and_says_that_the_command_resumes(runner, model, tmp_path):
    model.write_text(
        model.read_text()
        + "\nclass Interrupted(LogisticRegression):\n"
        + "    def fit(self, x, y, sample_weight=None):\n"
        + "        if len(x) < 60:\n            raise KeyboardInterrupt\n"
        + "        return super().fit(x, y, sample_weight)\n\n\n"
        + "def interrupted():\n"
        + "    return sy.learners.Sklearn(Interrupted()), _data(60, 0), _data(8, 1)\n"
    )
    out = tmp_path / "run"
    found = runner.invoke(
        app, ["attribute", f"{model}:interrupted", "--method", "leave_one_out", "--out", str(out)]
    )
    assert found.exit_code == 130
    assert "the same command resumes" in found.stderr
    assert (tmp_path / "run.part").is_dir()
