"""The answer in words: what was shown, how surely, and whether to trust the scores."""

from collections.abc import Sequence

from steelyard.records import Evidence, Finding, Plan, Report
from steelyard.report.about import about_baselines, about_method, better, subject
from steelyard.report.wording import clean_line, interval, metric, number, percent, several, signed

_DOING = {"drop": "dropping", "keep": "keeping only", "relabel": "relabelling", "weigh": "reweighting"}
_TOLD = 3  # pieces of evidence told in any case; of the others, those that confirm nothing
_REASONS = ("SY101", "SY202")  # findings that take away the trust in the scores


def in_words(report: Report) -> str:
    """The verdict on a report with its findings: one sentence per kind of evidence, the strongest first.

    Nothing is rounded up: without evidence it says so, an inconclusive result is called that, and evidence
    against the scores comes before everything else.
    """
    failed = [f for f in report.findings if f.outcome == "failed" and f.code in _REASONS]
    sentences = [_distrust(failed)] if failed else []
    if not report.evidence:
        sentences.append(
            f"Not verified: {_asked(report)} of {_size(report)} are shown, but nothing here tells whether they are "
            "right. Verify before acting on them."
        )
    found = by_weight(about_method(report))
    told = [e for i, e in enumerate(found) if i < _TOLD or e.verdict != "confirmed"]
    return " ".join([*sentences, *(_sentence(e, report) for e in told)])


def standing(report: Report) -> str:
    """The verdict in one word: ``"confirmed"``, ``"refuted"``, ``"mixed"``, ``"inconclusive"`` or ``"unverified"``."""
    verdicts = {e.verdict for e in about_method(report)}
    if not verdicts:
        return "unverified"
    if {"confirmed", "refuted"} <= verdicts:
        return "mixed"
    return next(v for v in ("refuted", "confirmed", "inconclusive") if v in verdicts)


def by_weight(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Evidence with what weighs most first: counterfactual retraining, then correlations with it."""
    counterfactual = (
        "retraining",
        "lds",
        "loo",
        "removal_curve",
        "qld",
        "brittleness",
        "retain_curve",
        "targeted_edit",
        "poison",
        "fix_labels",
    )
    order = (*counterfactual, "mislabel_auc", "calibration", "tail_patch", "mrr", "recall")
    return sorted(evidence, key=lambda e: order.index(e.metric) if e.metric in order else len(order))


def _sentence(evidence: Evidence, report: Report) -> str:
    range_ = f"{percent(evidence.level)} interval {interval(*evidence.interval)}"
    if evidence.metric == "retraining":
        return _retraining(evidence, report, range_)
    if evidence.metric == "lds":
        return _lds(evidence, report, range_)
    if evidence.metric == "calibration":
        return (
            f"Measured change is {number(evidence.estimate)} times the predicted change ({range_}); "
            f"1 would be perfect."
        )
    if evidence.metric == "mislabel_auc":
        return (
            f"A wrongly labelled example is ranked as more suspect than a right one in {percent(evidence.estimate)} "
            f"of all pairs ({range_}); chance is 50\u00a0%."
        )
    if evidence.metric == "removal_curve":
        return _removal(evidence, range_)
    value = f"{metric(evidence.metric)} of {subject(evidence, report)}: {number(evidence.estimate)} {evidence.unit}"
    beside = f", random {number(evidence.control['estimate'])}" if "estimate" in evidence.control else ""
    return f"{value} ({range_}{beside}); {evidence.verdict}."


def _removal(evidence: Evidence, range_: str) -> str:
    gap = f"{number(evidence.estimate)} {evidence.unit} ({range_})"
    if evidence.verdict == "inconclusive":
        return f"Dropping the most harmful and dropping the most helpful examples cannot be told apart: a gap of {gap}."
    side = "better" if evidence.estimate > 0 else "worse"
    return f"The queries do {side} without the most harmful than without the most helpful examples, by {gap}."


def _retraining(evidence: Evidence, report: Report, range_: str) -> str:
    # The verifier's estimate is an improvement: positive means that the plan did better than random plans.
    doing, these, size = _plan_in_words(evidence, report.plans)
    measured = report.scores[0].measurement if report.scores else None
    what = f"the {measured.name.replace('_', ' ')} of the queries" if measured else "the queries"
    rounds = _rounds(evidence)
    if evidence.verdict == "inconclusive":
        return (
            f"Whether {doing} {these} helps more than {doing} {size} random ones could not be told: the difference "
            f"in {what} is {signed(evidence.estimate)} {evidence.unit} in the plan's favour ({range_}{rounds})."
        )
    verb = "improved" if measured is None else ("lowered" if measured.lower_is_better else "raised")
    side = "more" if evidence.estimate > 0 else "less"
    gain = f"{number(abs(evidence.estimate))} {evidence.unit} {side} than {doing} {size} random ones"
    whole = evidence.control.get("plan_against_full")
    against = (
        "" if whole is None else f"; against training on everything the gain is {signed(whole, padded=False)}"
    )
    return f"{doing.capitalize()} {these} {verb} {what} by {gain} ({range_}{rounds}){against}."


def _lds(evidence: Evidence, report: Report, range_: str) -> str:
    text = (
        f"Scores predict what training on random subsets does with a rank correlation of "
        f"{number(evidence.estimate)} ({range_})"
    )
    beaten = [name for name, other in about_baselines(report, "lds").items() if better(other, evidence)]
    baselines = about_baselines(report, "lds")
    if beaten:
        values = ", ".join(f"{name} {number(baselines[name].estimate)}" for name in beaten)
        return f"{text}, but a baseline does better: {values}."
    if baselines:
        name, best = max(baselines.items(), key=lambda item: item[1].estimate)
        return f"{text}; the best baseline, {name}, reaches {number(best.estimate)}."
    if "estimate" in evidence.control:
        return f"{text}; random scores reach {number(evidence.control['estimate'])}."
    return f"{text}."


def verified_plan(evidence: Evidence, plans: Sequence[Plan]) -> Plan | None:
    """The plan that evidence by retraining is about; None if that cannot be told.

    Evidence names its plan in words ("plan to drop 20 of 1000 …"); the first of that action and size is meant.
    """
    named = [plan for plan in plans if f"{plan.action} {len(plan)} " in f"{evidence.subject} "]
    return named[0] if named else (plans[0] if len(plans) == 1 else None)


def carrying_out(plan: Plan) -> str:
    """What carrying out a plan is called, such as ``"dropping 20"``."""
    return f"{_DOING[plan.action]} {len(plan):,}"


def _plan_in_words(evidence: Evidence, plans: Sequence[Plan]) -> tuple[str, str, str]:
    plan = verified_plan(evidence, plans)
    if plan is None:
        return "following", f"the {clean_line(evidence.subject, limit=80)}", "equally large"
    these = "this example" if len(plan) == 1 else f"these {len(plan):,} examples"
    return _DOING[plan.action], these, f"{len(plan):,}"


def _rounds(evidence: Evidence) -> str:
    parts: list[str] = []
    if "seed" in evidence.table:
        parts.append(several(len(set(evidence.table["seed"])), "seed"))
    if "arm" in evidence.table:
        controls = {arm for arm in evidence.table["arm"] if str(arm).startswith("random")}
        parts.append(several(len(controls), "random plan"))
    return f"; {', '.join(parts)}" if parts else ""


def _distrust(failed: Sequence[Finding]) -> str:
    return "Do not trust these scores: " + " ".join(clean_line(f.detail, limit=400) for f in failed)


def _asked(report: Report) -> str:
    return f"scores by {report.scores[0].name}" if report.scores else "no scores"


def _size(report: Report) -> str:
    train = len(report.scores[0].train_ids) if report.scores else len(report.train)
    return several(train, "training example")
