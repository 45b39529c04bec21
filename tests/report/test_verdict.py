from dataclasses import replace

import numpy as np
import pytest

from steelyard.records import Measurement, Plan
from steelyard.report import judge
from steelyard.report.verdict import standing
from tests.report import cases
from tests.report.cases import lds, retraining
from tests.report.test_checks import plan_of, report


def told(*evidence, plans=(), made=None):
    made = made or report()
    return judge(replace(made, evidence=evidence, plans=plans)).verdict


def test_a_confirmed_plan_in_one_sentence():
    made = report()
    plan = plan_of(made)
    assert told(retraining(plan), plans=(plan,), made=made) == (
        "Dropping these 10 examples lowered the loss of the queries by 0.012 nats more than dropping 10 random ones "
        "(95\u00a0% interval 0.003 to 0.021; 5 seeds, 8 random plans); against training on everything the gain is "
        "+0.0118."
    )


def test_words_follow_direction_and_sign():
    made = report()
    margin = Measurement("margin", "logits", lower_is_better=False)
    made = replace(made, scores=(replace(made.scores[0], measurement=margin),))
    plan = replace(plan_of(made), action="keep")
    worse = retraining(plan, estimate=-0.02, verdict="refuted")
    assert (
        "Keeping only these 10 examples raised the margin of the queries by 0.02 nats less than keeping only 10"
        in told(worse, plans=(plan,), made=made)
    )


def test_an_inconclusive_result_is_called_that():
    made = report()
    plan = plan_of(made)
    verdict = told(retraining(plan, estimate=0.001, verdict="inconclusive"), plans=(plan,), made=made)
    assert verdict.startswith(
        "Whether dropping these 10 examples helps more than dropping 10 random ones could not be told"
    )
    assert "lowered" not in verdict


def test_refuted_scores_are_not_to_be_trusted():
    verdict = told(lds(cases.EKFAC, -0.01, verdict="refuted"))
    assert verdict.startswith("Do not trust these scores: LDS of EKFAC")


def test_without_evidence_nothing_is_claimed():
    verdict = told()
    assert verdict.startswith("Not verified: scores by EKFAC of 100 training examples")
    assert "confirmed" not in verdict.lower()


def test_a_better_baseline_is_named():
    made = report(baselines=[("ClassSimilarity()", np.random.default_rng(0).random((100, 6)))])
    verdict = told(lds(cases.EKFAC, 0.2), lds("ClassSimilarity()", 0.3), made=made)
    assert verdict.endswith("but a baseline does better: ClassSimilarity 0.3.")


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        ((), "unverified"),
        (("confirmed",), "confirmed"),
        (("confirmed", "inconclusive"), "confirmed"),
        (("inconclusive",), "inconclusive"),
        (("refuted", "inconclusive"), "refuted"),
        (("confirmed", "refuted"), "mixed"),
    ],
)
def test_standing(verdicts, word):
    made = report()
    assert standing(replace(made, evidence=tuple(lds(cases.EKFAC, 0.1, verdict=v) for v in verdicts))) == word


def test_standing_is_about_the_method_only(digits_report):
    assert any(e.verdict == "refuted" for e in digits_report.evidence)
    assert standing(digits_report) == "confirmed"


def test_a_plan_of_one():
    made = report()
    plan = Plan(
        "relabel", made.scores[0].train_ids[:1], ("why",), "c", labels=np.array([1]), previous=np.array([0])
    )
    assert told(retraining(plan), plans=(plan,), made=made).startswith("Relabelling this example lowered")
