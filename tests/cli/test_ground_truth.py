"""Tasks that come with Steelyard: their banks, and what verifies by them."""

import json

import numpy as np
import pytest

from steelyard.cli.app import app
from steelyard.collect.bank import open_bank, read_fits
from steelyard.flow.ground_truth import TASKS
from steelyard.run import read_manifest


def invoke(runner, *given: str) -> str:
    found = runner.invoke(app, list(given))
    assert found.exit_code == 0, found.output
    return found.stdout


def test_recipes_are_listed_with_their_fits(runner):
    listed = json.loads(invoke(runner, "bank", "recipes", "--json"))
    assert list(listed) == list(TASKS) and len(listed) >= 3
    assert listed["digits-network"]["fits"] == 65 * 5
    shown = invoke(runner, "bank", "recipes")
    assert all(name in shown for name in TASKS) and "steelyard bank build" in shown


def test_a_recipe_gives_truth_that_verify_and_leaderboards_take(runner, tmp_path):
    bank, out = str(tmp_path / "bank"), str(tmp_path / "run")
    invoke(runner, "bank", "build", "digits-logistic", "--out", bank, "--fits", "9", "-q")
    assert (open_bank(bank).purpose, open_bank(bank).design, open_bank(bank).fits) == (
        "verification",
        "half",
        9,
    )
    fits = read_fits(bank)
    assert fits.weightings.sum(axis=1).tolist() == [1000] + [500] * 8 and np.isfinite(fits.values).all()
    invoke(
        runner, "attribute", "digits-logistic", "--method", "grad_dot", "--no-baselines", "--out", out, "-q"
    )
    invoke(runner, "verify", out, "--metric", "lds", "--subsets", "8", "--bank", bank, "-q")
    assert read_manifest(f"{out}/verified").cost.fits == 0
    board = tmp_path / "board.yaml"
    text = "tasks:\n  digits: {model: digits-logistic, bank: bank}\nmethods: [grad_dot]\nmetrics: [lds: {subsets: 8}]\n"
    board.write_text(text)
    invoke(runner, "leaderboard", str(board), "--out", str(tmp_path / "board"), "-q")
    assert any("taken from a bank of 9" in note for note in read_manifest(tmp_path / "board").notes)
    board.write_text(text.replace("bank: bank", "bank: nowhere"))
    refused = runner.invoke(app, ["leaderboard", str(board), "--out", str(tmp_path / "no")])
    assert refused.exit_code == 2 and "nowhere is no bank of fits" in " ".join(refused.stderr.split())


def test_what_is_no_recipe_needs_a_number_and_a_misspelt_one_is_guessed(runner, model, tmp_path):
    missing = runner.invoke(app, ["bank", "build", f"{model}:build", "--out", str(tmp_path / "a")])
    assert missing.exit_code == 2 and "--fits is missing" in missing.stderr
    misspelt = runner.invoke(
        app, ["bank", "build", "digits-netwrk", "--fits", "3", "--out", str(tmp_path / "b")]
    )
    assert misspelt.exit_code == 2 and "digits-network" in misspelt.stderr


@pytest.mark.slow  # every task, at reduced size
@pytest.mark.parametrize("name", TASKS)
def test_every_recipe_builds_and_the_same_fits_come_again(runner, tmp_path, name):
    for place in ("a", "b"):
        invoke(
            runner, "bank", "build", name, "--out", str(tmp_path / place), "--fits", "3", "--seeds", "1", "-q"
        )
    first, second = read_fits(tmp_path / "a"), read_fits(tmp_path / "b")
    assert np.isfinite(first.values).all() and len(first.values) == 3
    np.testing.assert_array_equal(first.weightings, second.weightings)
    np.testing.assert_allclose(first.values, second.values, rtol=1e-5, atol=1e-6)
