"""``--bank`` and ``--time-budget`` where fits are made: what is taken, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steelyard.cli.app import app
from steelyard.run import read_manifest


@pytest.fixture
def scored(runner, model, tmp_path) -> Path:
    out = tmp_path / "scored"
    given = ["attribute", f"{model}:build", "--method", "gauss_newton", "--no-baselines", "--out", str(out)]
    assert runner.invoke(app, given).exit_code == 0
    return out


@pytest.fixture
def slow(monkeypatch) -> None:
    """A fit is predicted to take half a second."""
    monkeypatch.setattr(
        "steelyard.collect.pace._probe", lambda _: {"fit": np.array(0.5), "gradient": np.array(0.0)}
    )


def built(runner, model, folder: Path, *options: str) -> str:
    found = runner.invoke(app, ["bank", "build", f"{model}:build", "--out", str(folder), *options])
    assert found.exit_code == 0, found.output
    return str(folder)


def test_attribute_takes_fits_for_scoring(runner, model, tmp_path):
    bank = built(runner, model, tmp_path / "bank", "--fits", "61", "--design", "leave-one-out")
    given = ["attribute", f"{model}:build", "--method", "leave_one_out", "--set", "seeds=1", "--no-baselines"]
    with_bank, plain = tmp_path / "with", tmp_path / "plain"
    for out, more in ((with_bank, ["--bank", bank]), (plain, [])):
        found = runner.invoke(app, [*given, "--out", str(out), *more])
        assert found.exit_code == 0, found.output
    fits = [read_manifest(out).cost.fits for out in (with_bank, plain)]
    assert fits[1] - fits[0] == 61
    assert any("taken from a bank of 61" in note for note in read_manifest(with_bank).notes)
    tables = []
    for out in (with_bank, plain):
        (values,) = (out / "report" / "scores").glob("*/values.npy")
        tables.append(np.load(values))
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6, atol=1e-9)
    other = built(runner, model, tmp_path / "other", "--fits", "4", "--purpose", "verification")
    refused = runner.invoke(app, [*given, "--out", str(tmp_path / "no"), "--bank", other])
    assert refused.exit_code == 2
    assert "is a bank for verification, not for scoring" in refused.stderr


def test_verify_takes_fits_for_verification_and_never_those_of_scoring(runner, model, tmp_path, scored):
    options = ("--fits", "34", "--seeds", "2", "--purpose", "verification")
    bank = built(runner, model, tmp_path / "bank", *options)
    given = ["verify", str(scored), "--metric", "lds", "--subsets", "16", "--seeds", "2", "--json"]
    plain = runner.invoke(app, given)
    assert read_manifest(scored / "verified").cost.fits == 32
    taken = runner.invoke(app, [*given, "--bank", bank, "--fresh"])
    assert taken.exit_code == 0, taken.output
    assert read_manifest(scored / "verified").cost.fits == 0
    first, second = (json.loads(found.stdout)["evidence"][0]["estimate"] for found in (plain, taken))
    assert second == pytest.approx(first, abs=1e-6)
    planned = runner.invoke(app, [*given[:-1], "--plan-only", "--bank", bank])
    assert planned.exit_code == 0, planned.output
    assert read_manifest(scored / "planned").cost.fits == 0
    wrong = built(runner, model, tmp_path / "wrong", "--fits", "4")
    refused = runner.invoke(app, [*given, "--bank", wrong, "--fresh"])
    assert refused.exit_code == 2
    assert "is a bank for scoring, not for verification" in refused.stderr


@pytest.mark.usefixtures("slow")
def test_value_and_attribute_keep_the_time_budget(runner, model, tmp_path):
    for command in ("value", "attribute"):
        given = [command, f"{model}:build", "--method", "banzhaf", "--set", "fits=60"]
        given += ["--out", str(tmp_path / command), "--time-budget"]
        refused = runner.invoke(app, [*given, "20"])
        assert refused.exit_code == 2
        assert "about 30 s" in refused.stderr
        assert "ask for 40 fits or fewer" in " ".join(refused.stderr.split())
        assert runner.invoke(app, [*given, "31"]).exit_code == 0


@pytest.mark.usefixtures("slow")
def test_all_that_a_verification_asks_for_shares_the_time_budget(runner, scored):
    given = ["verify", str(scored), "--metric", "lds,retraining", "--subsets", "16", "--seeds", "2"]
    one = runner.invoke(app, [*given[:3], "lds", *given[4:], "--time-budget", "16"])
    assert one.exit_code == 0, one.output
    refused = runner.invoke(app, [*given, "--fresh", "--time-budget", "17"])
    assert refused.exit_code == 2
    assert "what is left of the time budget, 1 s" in " ".join(refused.stderr.split())
    planned = runner.invoke(app, [*given, "--plan-only", "--time-budget", "2"])
    assert planned.exit_code == 2
    assert "raise --time-budget" in planned.stderr


def test_every_command_that_makes_fits_takes_ray_and_says_when_there_is_none(runner, model, tmp_path, scored):
    (tmp_path / "board.yaml").write_text(
        f"tasks:\n  one:\n    model: {model}:build\nmethods: [gauss_newton]\nmetrics: [lds]\n"
    )
    banks = built(runner, model, tmp_path / "bank", "--fits", "4")
    commands = [
        ["value", f"{model}:build", "--method", "banzhaf", "--out", str(tmp_path / "a")],
        ["attribute", f"{model}:build", "--out", str(tmp_path / "b")],
        ["verify", str(scored), "--metric", "lds"],
        ["bank", "build", f"{model}:build", "--fits", "4", "--out", str(tmp_path / "c")],
        ["bank", "extend", banks, "--fits", "8"],
        ["leaderboard", str(tmp_path / "board.yaml"), "--out", str(tmp_path / "d")],
    ]
    for command in commands:
        found = runner.invoke(app, [*command, "--ray", "127.0.0.1:1"])
        assert found.exit_code == 2, found.output
        assert "--ray 127.0.0.1:1: nothing answers there" in found.stderr
        assert "ray start --head" in found.stderr
    assert not [*tmp_path.glob("[abcd]"), *tmp_path.glob("[abcd].part")]


@pytest.mark.slow  # starts Ray
def test_values_by_ray_equal_those_of_the_loop(model, tmp_path):
    pytest.importorskip("ray", reason="needs ray: pip install 'steelyard[ray]'")
    source = model.read_text().replace("LogisticRegression(C=1.0)), _data(60, 0)", "Forest(5)), _data(60, 0)")
    model.write_text(f"from sklearn.ensemble import RandomForestClassifier as Forest\n{source}")
    tables = []
    for name, more in (("ray", ["--ray", "local"]), ("loop", [])):
        given = ["value", f"{model}:build", "--method", "banzhaf", "--set", "fits=32", "--quiet"]
        command = [sys.executable, "-m", "steelyard", *given, "--out", str(tmp_path / name), *more]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        tables.append((tmp_path / name / "values.csv").read_text())
        assert any("Ray workers" in note for note in read_manifest(tmp_path / name).notes) == (name == "ray")
    assert tables[0] == tables[1]
