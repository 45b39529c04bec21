from dataclasses import replace

import numpy as np
import pytest

from steelyard.errors import DataError, NumericsError, ShapeError
from steelyard.records import Plan
from steelyard.report import build


def test_records_find_their_place_in_any_order(digits_report):
    first, *others = digits_report.scores
    made = build(first, digits_report.evidence[0], others[0], digits_report.plans[0], others[1])
    assert [s.name for s in made.scores] == ["EKFAC", "ClassSimilarity", "Random"]
    assert made.plans == digits_report.plans[:1] and made.evidence == digits_report.evidence[:1]


def test_only_ids_are_needed(digits_report):
    made = build(digits_report.scores[0])
    np.testing.assert_array_equal(made.train.ids, digits_report.scores[0].train_ids)
    assert made.train.inputs == () and made.title == "EKFAC: 400 training examples, 30 queries"


def test_cost_is_that_of_everything(digits_report):
    cost = digits_report.provenance.cost
    assert cost.fits == 3 * 1 + 50 + 3 * 64
    assert cost.seconds == pytest.approx(3 * 4.2 + 21 + 3 * 31)


def test_scores_that_are_not_finite_are_refused(digits_report):
    values = digits_report.scores[0].values.copy()
    values[3, 2] = np.nan
    with pytest.raises(NumericsError, match="digit-0003"):
        build(replace(digits_report.scores[0], values=values))


def test_no_scores_no_report():
    with pytest.raises(ShapeError, match="needs scores"):
        build([])


def test_baselines_must_be_about_the_same_examples(digits_report):
    first = digits_report.scores[0]
    other = replace(digits_report.scores[1], train_ids=first.train_ids[::-1])
    with pytest.raises(ShapeError, match="same training examples"):
        build([first, other])


def test_plans_and_facts_must_name_scored_examples(digits_report):
    first = digits_report.scores[0]
    with pytest.raises(ShapeError, match="'nobody'"):
        build(first, Plan("drop", np.array(["nobody"]), ("why",), ""))
    with pytest.raises(DataError, match="'nobody'"):
        build(first, truth={"flipped": ["nobody"]})
