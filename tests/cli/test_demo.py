"""The demos, whole: their promises are checked, not their existence."""

import json

import pytest

from steelyard.cli.app import app

pytestmark = pytest.mark.slow


def test_digits_finds_flipped_labels_and_proves_it(runner, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    out = tmp_path / "demo"
    found = runner.invoke(app, ["demo", "--out", str(out), "--json"])
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    evidence = {(one["metric"], one["subject"].partition("(")[0]): one for one in result["evidence"]}
    assert evidence["mislabel_auc", "SelfInfluence"]["estimate"] > 0.95
    assert evidence["lds", "EKFAC"]["estimate"] > 0.35
    assert evidence["lds", "EKFAC"]["estimate"] > evidence["lds", "GradDot"]["estimate"]
    assert evidence["lds", "Random"]["verdict"] != "confirmed"
    plans = [one for one in result["evidence"] if one["metric"] == "retraining"]
    assert [one["verdict"] for one in plans] == ["confirmed", "confirmed"]
    page = (out / "report.html").read_text()
    assert "data:image/png" in page
    again = runner.invoke(app, ["demo", "--out", str(out), "--json"])
    assert json.loads(again.stdout) == result


def test_text_proponents_share_the_topic_of_the_query(runner, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    found = runner.invoke(app, ["demo", "text", "--out", str(tmp_path / "demo"), "--json"])
    assert found.exit_code == 0, found.output
    evidence = {
        (one["metric"], one["subject"].partition("(")[0]): one for one in json.loads(found.stdout)["evidence"]
    }
    topic = evidence["agreement", "EKFAC"]
    assert topic["verdict"] == "confirmed"
    assert topic["estimate"] > 2 * topic["control"]["estimate"]
    assert evidence["agreement", "Random"]["verdict"] != "confirmed"
    assert evidence["lds", "EKFAC"]["verdict"] == "confirmed"
