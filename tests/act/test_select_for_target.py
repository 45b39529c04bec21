"""Selection by datamodels: the planted best examples for a target are kept."""

import numpy as np
import pytest

from steelyard import act
from steelyard.errors import DataError, SettingError
from steelyard.score import Datamodels, Random
from tests.problems import additive_problem, additive_truth


def test_it_keeps_what_is_best_for_the_target_and_predicts_the_gain():
    problem = additive_problem(20, 4)
    scores = Datamodels(fits=60)(problem)
    truth = additive_truth(problem)
    for target in (None, scores.query_ids[[1]].tolist(), scores.query_ids[[0, 3]].tolist()):
        plan = act.select_for_target(scores, target=target, count=5)
        columns = slice(None) if target is None else np.isin(scores.query_ids, target)
        mean = truth[:, columns].mean(axis=1)
        best = np.argsort(-mean)[:5]
        np.testing.assert_array_equal(plan.ids, problem.train.ids[best])
        assert plan.action == "keep"
        told = plan.provenance.resolved["predicted gain over a random subset"]
        assert told == pytest.approx(mean[best].sum() - 5 * mean.mean(), abs=1e-8)
        kept = plan.apply(problem.train)
        assert len(kept) == 5
    assert "rank 1 of 20" in plan.reasons[0]


def test_bad_input_is_refused():
    problem = additive_problem(20, 4)
    scores = Datamodels(fits=60)(problem)
    with pytest.raises(DataError, match="query 'nobody'"):
        act.select_for_target(scores, target=["nobody"], count=3)
    with pytest.raises(DataError, match="no queries"):
        act.select_for_target(scores, target=[], count=3)
    with pytest.raises(SettingError, match="no weights that add up"):
        act.select_for_target(Random()(problem), count=3)
    with pytest.raises(SettingError, match="20 of 20"):
        act.select_for_target(scores, count=20)
