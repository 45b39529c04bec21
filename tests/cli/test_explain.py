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
