from dataclasses import replace

import numpy as np
import pytest

from steelyard.records import Finding, Provenance, Report
from steelyard.report import build, checks, judge
from tests.report import cases
from tests.report.cases import calibration, examples, lds, retraining, scores


def report(values=None, *, baselines=(), evidence=(), train=None, **rest) -> Report:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((100, 6)) if values is None else values
    train = train or examples({"x": np.arange(len(values))}, inputs=("x",), label=None, prefix="t")
    query = examples({"x": np.arange(values.shape[1])}, inputs=("x",), label=None, prefix="q")
    asked = scores(values, train, query, **rest)
    others = [scores(v, train, query, method=name, unit="rank") for name, v in baselines]
    return build([asked, *others], *evidence, train=train, query=query)


def outcome(made: Report, code: str) -> str:
    return next(f.outcome for f in made.findings if f.code == code)


def detail(made: Report, code: str) -> str:
    return next(f.detail for f in made.findings if f.code == code)


def plan_of(made, count=10):
    from steelyard.records import Plan

    first = made.scores[0]
    return Plan("drop", first.train_ids[:count], ("because",) * count, first.train_checksum)


def test_every_check_has_a_code_a_page_and_a_name_of_its_own(digits_report):
    findings = checks.run(digits_report)
    assert [f.code for f in findings] == [check.__doc__.partition(":")[0] for check in checks.ALL]
    assert len({f.code for f in findings}) == len(checks.ALL) == 12
    assert all(len(check.__doc__) > 120 for check in checks.ALL)
    assert all(f.fix for f in findings if f.outcome == "failed")


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [("confirmed", "passed"), ("refuted", "failed"), ("inconclusive", "not_applicable")],
)
def test_sy101_follows_the_verifier(verdict, expected):
    made = report(evidence=[lds(cases.EKFAC, 0.1, verdict=verdict)])
    assert outcome(made, "SY101") == expected
    assert outcome(made, "SY103") == ("failed" if verdict == "inconclusive" else "passed")


def test_sy101_does_not_hold_a_bad_baseline_against_the_method():
    made = report(
        baselines=[("Random(seed=0)", np.random.default_rng(1).random((100, 6)))],
        evidence=[lds(cases.EKFAC, 0.4), lds("Random(seed=0)", 0.0, verdict="refuted")],
    )
    assert outcome(made, "SY101") == "passed"


def test_sy101_covers_plans():
    made = report()
    proof = retraining(plan_of(made), estimate=-0.01, verdict="refuted")
    assert outcome(judge(replace(made, evidence=(proof,))), "SY101") == "failed"


@pytest.mark.parametrize(("estimate", "expected"), [(0.3, "passed"), (0.1, "failed")])
def test_sy102_compares_with_baselines(estimate, expected):
    made = report(
        baselines=[("ClassSimilarity()", np.random.default_rng(1).random((100, 6)))],
        evidence=[lds(cases.EKFAC, estimate), lds("ClassSimilarity()", 0.2)],
    )
    assert outcome(made, "SY102") == expected
    if expected == "failed":
        assert "ClassSimilarity 0.2" in detail(made, "SY102") and "do not overlap" in detail(made, "SY102")


def test_sy102_with_two_settings_of_one_method():
    made = report(
        baselines=[("EKFAC(damping=1.0)", np.random.default_rng(1).random((100, 6)))],
        evidence=[lds(cases.EKFAC, 0.1), lds("EKFAC(damping=1.0)", 0.3)],
    )
    assert outcome(made, "SY102") == "failed"
    assert "EKFAC(damping=1.0) 0.3" in detail(made, "SY102")


def test_without_evidence_only_sy104_fails_about_verification():
    made = report()
    assert outcome(made, "SY104") == "failed"
    assert {outcome(made, f"SY10{i}") for i in (1, 2, 3, 5)} == {"not_applicable"}


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((0.6, 1.1), "passed"), ((0.3, 0.6), "passed"), ((0.1, 0.49), "failed"), ((2.1, 3.0), "failed")],
)
def test_sy105_allows_a_factor_of_two(interval, expected):
    made = report(evidence=[calibration(cases.EKFAC, slope=sum(interval) / 2, interval=interval)])
    assert outcome(made, "SY105") == expected


def test_sy201_effective_number_of_examples():
    spread = np.ones((100, 6))
    spread[::2] = -1
    assert detail(report(spread), "SY201").startswith("Effective number of examples 100 of 100")
    lonely = np.full((100, 6), 1e-6)
    lonely[7] = 5.0
    made = report(lonely)
    assert outcome(made, "SY201") == "failed" and "t-0007" in detail(made, "SY201")
    assert outcome(report(lonely, unit="rank"), "SY201") == "not_applicable"


def test_sy202_names_queries_with_constant_scores():
    values = np.random.default_rng(0).standard_normal((100, 6))
    assert outcome(report(values), "SY202") == "passed"
    values[:, 4] = 0.25
    made = report(values)
    assert outcome(made, "SY202") == "failed" and "q-0004" in detail(made, "SY202")


def test_sy203_sees_through_ties():
    same = (np.arange(100)[:, None] % 5 == np.arange(6)[None, :] % 5).astype(float)
    noise = np.random.default_rng(0).standard_normal((100, 6))
    made = report(10 * same + noise, baselines=[("ClassSimilarity()", same)])
    assert outcome(made, "SY203") == "failed"  # a plain rank correlation would only reach about .6
    assert outcome(report(noise, baselines=[("ClassSimilarity()", same)]), "SY203") == "passed"
    assert outcome(report(noise), "SY203") == "not_applicable"


def test_sy204_counts_copies_and_conflicts():
    x = np.arange(100)
    x[50], x[51] = 3, 3
    label = np.zeros(100, int)
    label[51] = 1
    train = examples({"x": x, "label": label}, inputs=("x",), label="label", prefix="t")
    made = report(train=train)
    assert outcome(made, "SY204") == "failed"
    assert detail(made, "SY204").startswith(
        "2 of 100 training examples have the same inputs as an earlier one, 1 of"
    )
    assert "t-0050, t-0051" in detail(made, "SY204")


def test_sy204_needs_all_training_examples(digits_report):
    asked = digits_report.scores[0]
    assert outcome(build(asked), "SY204") == "not_applicable"
    assert outcome(build(asked, train=digits_report.train.take(slice(0, 50))), "SY204") == "not_applicable"
    assert outcome(digits_report, "SY204") == "passed"


def test_sy205_compares_with_the_loss():
    harm = np.random.default_rng(0).standard_normal((100, 1))
    train = examples({"x": np.arange(100)}, inputs=("x",), label=None, prefix="t")
    query = examples({"x": np.arange(6)}, inputs=("x",), label=None, prefix="q")
    loss = scores(harm, train, query, method="Loss()", axis="example", suspect="high")
    alike = scores(np.repeat(-harm, 6, axis=1), train, query)
    apart = scores(np.random.default_rng(1).standard_normal((100, 6)), train, query)
    assert outcome(build([alike, loss]), "SY205") == "failed"
    assert outcome(build([apart, loss]), "SY205") == "passed"
    assert outcome(build(alike), "SY205") == "not_applicable"


def test_notes_and_failed_fits_are_findings():
    made = report(evidence=[lds(cases.EKFAC, 0.4)])
    assert (outcome(made, "SY301"), outcome(made, "SY302")) == ("passed", "passed")
    note = "3 of 64 fits failed and are left out; the first because: loss is nan"
    proof = replace(lds(cases.EKFAC, 0.4), provenance=Provenance(notes=(note,)))
    made = report(evidence=[proof])
    assert (outcome(made, "SY301"), outcome(made, "SY302")) == ("failed", "failed")
    assert "3 of 64 fits failed" in detail(made, "SY302")
    assert (
        outcome(
            judge(
                replace(made, evidence=(replace(proof, provenance=Provenance(notes=("conv by fallback",))),))
            ),
            "SY301",
        )
        == "failed"
    )


def test_muted_checks_still_say_what_they_saw():
    made = report()
    muted = judge(made, ignore=("SY104",))
    assert outcome(muted, "SY104") == "muted"
    assert detail(muted, "SY104").startswith("Would be failed. ")


def test_own_checks_run_after_ours():
    def narrow(made: Report) -> Finding:
        return Finding("ME001", "Narrow", "passed", f"{len(made.scores)} scores")

    assert judge(report(), (narrow,)).findings[-1].detail == "1 scores"


def test_hostile_text_in_findings_is_clean(hostile_report):
    assert not any("\x1b" in f.detail or "\u202e" in f.detail for f in hostile_report.findings)
