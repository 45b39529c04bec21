"""Removing the strongest proponents, on a game whose removal effects are known exactly."""

import numpy as np
import pytest

from steelyard.errors import SettingError
from steelyard.records import Evidence
from steelyard.run import open_run
from steelyard.verify import qld
from tests.problems import additive_problem, additive_truth, scores_of


def test_true_scores_of_one_query_are_confirmed():
    problem = additive_problem(60, 1)
    found = qld(problem, scores_of(problem, additive_truth(problem)), share=0.1, controls=6)
    assert found.verdict == "confirmed" and found.metric == "qld" and found.unit == "points"


def test_the_effect_is_the_sum_of_what_was_removed_in_turn():
    problem = additive_problem(60, 5)
    truth = additive_truth(problem)
    found = qld(problem, scores_of(problem, truth), share=0.1, controls=6)
    removed = []
    for rank in np.argsort(-truth, axis=0):
        removed += [row for row in dict.fromkeys(rank.tolist()) if row not in removed]
    expected = truth[removed[:6]].sum(axis=0)
    np.testing.assert_allclose(found.table["without_proponents"], expected, rtol=1e-9)
    assert found.estimate == pytest.approx(expected.mean())
    assert found.provenance.resolved["removed"] == 6


def test_scores_upside_down_are_refuted():
    problem = additive_problem(60, 5)
    found = qld(problem, scores_of(problem, -additive_truth(problem)), share=0.1, controls=6)
    assert found.verdict == "refuted" and found.estimate < found.control["estimate"]


def test_random_scores_are_not_confirmed_more_often_than_the_level_says():
    problem = additive_problem(60, 5)
    draw = np.random.default_rng(0)
    confirmed = [
        qld(problem, scores_of(problem, draw.normal(size=(60, 5))), controls=5).verdict == "confirmed"
        for _ in range(60)
    ]
    assert np.mean(confirmed) <= 0.1


def test_methods_share_the_fits_of_the_random_sets(tmp_path):
    problem = additive_problem(40, 4)
    truth = additive_truth(problem)
    with open_run(tmp_path / "run", {"test": 1}, show="quiet") as run:
        qld(problem, scores_of(problem, truth), controls=3, run=run)
        first = run.cost.fits
        qld(problem, scores_of(problem, -truth, method="Other()"), controls=3, run=run)
        assert run.cost.fits == first + 1
        again = qld(problem, scores_of(problem, truth), controls=3, run=run)
        assert run.cost.fits == first + 1
    assert first == 5
    again.save(tmp_path / "evidence.json")
    assert Evidence.load(tmp_path / "evidence.json").estimate == again.estimate


@pytest.mark.parametrize("changes", [{"share": 0.0}, {"share": 0.6}, {"controls": 1}])
def test_settings_without_meaning_are_refused(changes):
    problem = additive_problem(20, 3)
    with pytest.raises(SettingError, match="qld"):
        qld(problem, scores_of(problem, additive_truth(problem)), **changes)
