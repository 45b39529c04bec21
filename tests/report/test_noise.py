"""Scores that drown in noise are shown in grey, others are not, and the page says how many."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import false_discovery_control, t

from steelyard import report
from steelyard.records import Uncertainty
from steelyard.report.noise import drowned, in_noise
from tests.problems import additive_problem, additive_truth, scores_of


def noisy():
    p = additive_problem(12, 3)
    values = additive_truth(p)
    errors = np.full(values.shape, 1e-3)
    errors[:, 1] = 10.0
    return p, replace(scores_of(p, values), uncertainty=Uncertainty(errors, errors[:, 0], 9))


def test_pairs_are_judged_together():
    _, scores = noisy()
    raw = 2 * t.sf(np.abs(scores.values) / scores.uncertainty.pairs, 9)
    expected = false_discovery_control(raw.ravel()).reshape(raw.shape) >= 0.05
    np.testing.assert_array_equal(drowned(scores), expected)
    assert drowned(scores)[:, 1].all() and not drowned(scores)[:, 0].any()
    assert in_noise(scores).startswith("24 of 36 pairs")


def test_without_standard_errors_nothing_is_grey():
    p, scores = noisy()
    plain = replace(scores, uncertainty=None)
    assert drowned(plain) is None and in_noise(plain) == ""
    page = report.render(report.build(plain, train=p.train, query=p.query))
    assert "within noise" not in page


@pytest.mark.parametrize("stored", [False, True])
def test_the_page_greys_what_is_noise(stored, tmp_path):
    p, scores = noisy()
    made = report.build(scores, train=p.train, query=p.query)
    if stored:
        report.save(made, tmp_path / "report")
        made = report.load(tmp_path / "report")
    page = report.render(made)
    assert "24 of 36 pairs stand out of the noise" in page
    parts = page.split('class="query"')[1:]
    assert len(parts) == 3
    assert ['<tr class="noise">' in part for part in parts] == [False, True, False]
    assert ["within noise" in part for part in parts] == [False, True, False]
    assert '<tr class="for">' in parts[0] and '<tr class="for">' not in parts[1]
