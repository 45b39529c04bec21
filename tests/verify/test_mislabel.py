"""Area under the ROC curve for known wrong labels."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from steelyard.errors import DataError, SettingError
from steelyard.score.leave_one_out import LeaveOneOut
from steelyard.verify import mislabel_auc
from tests.problems import ridge_problem, scores_of


def test_exact_scores_find_flipped_labels():
    problem = ridge_problem(train=100, query=20, flip=8)
    truth = problem.train.ids[:8]
    scores = LeaveOneOut()(problem)
    evidence = mislabel_auc(scores, truth)
    assert evidence.estimate == pytest.approx(roc_auc_score(np.isin(scores.train_ids, truth), scores.harm()))
    assert evidence.verdict == "confirmed"
    assert evidence.table["share_found"][-1] == 1.0
    assert evidence.table["share_found"] == sorted(evidence.table["share_found"])
    turned = mislabel_auc(replace(scores, values=-scores.values), truth)
    assert turned.estimate == pytest.approx(1 - evidence.estimate)
    assert turned.verdict == "refuted"


def test_suspect_high_scores_are_not_turned():
    problem = ridge_problem(train=100, query=1)
    values = np.zeros((100, 1))
    values[:5] = 1.0
    scores = scores_of(problem, values)
    assert mislabel_auc(scores, problem.train.ids[:5]).estimate == 0.0
    high = replace(scores, axis="example", suspect="high", query_ids=np.array(["self"]))
    found = mislabel_auc(high, problem.train.ids[:5])
    assert found.estimate == 1.0
    assert 0.5 < found.interval[0] < 1.0


@pytest.mark.laws
def test_random_scores_are_confirmed_no_more_often_than_chance():
    problem, trials = ridge_problem(train=100, query=1), 600
    verdicts = [
        mislabel_auc(
            scores_of(problem, np.random.default_rng(t).normal(size=(100, 1))), problem.train.ids[:10]
        ).verdict
        for t in range(trials)
    ]
    assert verdicts.count("confirmed") <= trials * 0.025 + 3 * (trials * 0.025 * 0.975) ** 0.5


def test_bad_truth_is_refused():
    problem = ridge_problem()
    scores = scores_of(problem, np.ones((40, 6)))
    with pytest.raises(DataError, match="nobody"):
        mislabel_auc(scores, ["nobody"])
    with pytest.raises(SettingError, match="0 of 40"):
        mislabel_auc(scores, [])
    with pytest.raises(SettingError, match="40 of 40"):
        mislabel_auc(scores, problem.train.ids)
    assert mislabel_auc(scores, problem.train.ids[:3]).verdict == "inconclusive"
