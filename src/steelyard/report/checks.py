"""Coded checks: what usually goes wrong with attribution, looked for in every report.

A check is a function from a report to a finding; its docstring says what it means when it fails. Codes are stable:
SY1xx about verification, SY2xx about the scores and the data, SY3xx about how the work went. ``run`` takes further
checks beside these, and codes to mute; what a muted check saw stays readable.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from steelyard.records import Evidence, Finding, Report, Scores
from steelyard.report.about import (
    COMPARABLE,
    about_baselines,
    about_method,
    agreement,
    all_notes,
    better,
    subject,
)
from steelyard.report.duplicates import duplicates
from steelyard.report.wording import clean_line, interval, metric, number, several

Check = Callable[[Report], Finding]

_SLOPE = 2.0  # calibration: predictions off by more than this factor are called miscalibrated
_FEW = 0.02  # dominated: the effective number of examples is below this share of all
_SAME = 0.9  # rank correlation above which one score says nothing that the other does not
_COLUMNS = 100  # queries looked at for rank correlations
_NAMED = 3  # ids or notes quoted in a finding
_FAILED = re.compile(r"\d of [\d,]+ fits failed")


def no_better_than_random(report: Report) -> Finding:
    """SY101: the scores or the plan did no better than chance.

    Fails if verification refuted any of them: retraining with the plan, LDS, removal curve, removal of proponents,
    tail patch or the area under the curve for known wrong labels was not better than its random control although
    there was power to see it.
    """
    title, found = "Better than random", about_method(report, "retraining", *COMPARABLE)
    if not found:
        return Finding("SY101", title, "not_applicable", "Nothing was compared with random.")
    refuted = [e for e in found if e.verdict == "refuted"]
    if refuted:
        fix = (
            "do not act on these scores; try another method, and see whether the model is trained to the end."
        )
        return Finding("SY101", title, "failed", _list(refuted, report), fix)
    confirmed = [e for e in found if e.verdict == "confirmed"]
    if confirmed:
        return Finding("SY101", title, "passed", _list(confirmed, report))
    return Finding("SY101", title, "not_applicable", "Verification could not tell: see SY103.")


def beaten_by_baseline(report: Report) -> Finding:
    """SY102: a baseline does better than the method.

    Fails if, on a metric that both have, a baseline's estimate is better than the method's: then the cheaper
    baseline should be used. The detail says whether the two intervals overlap.
    """
    title, lost, compared = "Better than the baselines", [], 0
    for mine in about_method(report, *COMPARABLE):
        for name, other in about_baselines(report, mine.metric).items():
            compared += 1
            if better(other, mine):
                apart = max(mine.interval[0], other.interval[0]) > min(mine.interval[1], other.interval[1])
                lost.append(
                    f"{metric(mine.metric)}: {name} {number(other.estimate)}, {subject(mine, report)} "
                    f"{number(mine.estimate)} ({'intervals do not overlap' if apart else 'intervals overlap'})"
                )
    if not compared:
        return Finding("SY102", title, "not_applicable", "No baseline was verified beside the method.")
    if lost:
        fix = "use the baseline, or a better method; where intervals overlap, verify with more subsets or seeds."
        return Finding("SY102", title, "failed", "; ".join(lost) + ".", fix)
    return Finding("SY102", title, "passed", f"Ahead in {several(compared, 'comparison')} with baselines.")


def noise_exceeds_signal(report: Report) -> Finding:
    """SY103: verification could not tell the effect from noise.

    Fails if any evidence is inconclusive. This says nothing against the scores; it says that nothing was shown.
    """
    title = "Enough power to tell"
    if not report.evidence:
        return Finding("SY103", title, "not_applicable", "No verification was run.")
    unclear = [e for e in about_method(report) if e.verdict == "inconclusive"]
    if not unclear:
        return Finding("SY103", title, "passed", "Every verification came to a conclusion.")
    detail = " ".join(
        f"{metric(e.metric)} of {subject(e, report)} is inconclusive. {e.power}".strip() for e in unclear
    )
    fix = "verify with more seeds or subsets, or with a larger plan, as the power statement says."
    return Finding("SY103", title, "failed", detail, fix)


def not_verified(report: Report) -> Finding:
    """SY104: nobody has looked whether the scores are right.

    Fails if the report holds no evidence at all. Attribution methods are approximations that fail silently.
    """
    title = "Verified at all"
    if report.evidence:
        return Finding(
            "SY104", title, "passed", f"{several(len(report.evidence), 'verification')} in this report."
        )
    fix = "run sy.verify.lds(problem, scores), or sy.verify.by_retraining(problem, plan) (steelyard verify)."
    return Finding("SY104", title, "failed", "There is no evidence that these scores are right.", fix)


def miscalibrated(report: Report) -> Finding:
    """SY105: predicted changes are wrong in size by more than a factor of two.

    Fails if the whole interval of the calibration slope (measured against predicted change) lies below 1/2 or
    above 2. The ranking may still be right; sums of scores are not amounts of change then.
    """
    title, found = "Predicted changes have the right size", about_method(report, "calibration")
    if not found:
        return Finding("SY105", title, "not_applicable", "Calibration was not measured.")
    slope = found[0]
    low, high = slope.interval
    detail = f"Slope of measured against predicted change {number(slope.estimate)} [{interval(low, high)}]."
    if high < 1 / _SLOPE or low > _SLOPE:
        fix = "use the scores for ranking only, or choose the damping anew."
        return Finding("SY105", title, "failed", detail, fix)
    return Finding("SY105", title, "passed", detail)


def dominated_by_few(report: Report) -> Finding:
    """SY201: a few examples hold nearly all of the score.

    Fails if the effective number of examples, (sum of absolute scores) squared over sum of squares, is below 2 % of
    all. Typical causes: outliers, exploding gradients, too little damping.
    """
    title = "Scores are spread over many examples"
    if not report.scores or report.scores[0].unit == "rank" or len(report.scores[0].train_ids) < 50:
        return Finding("SY201", title, "not_applicable", "Needs 50 examples with scores that have a unit.")
    scores = report.scores[0]
    values = np.abs(scores.per_example())
    squares = float(values @ values)
    if squares == 0:
        return Finding("SY201", title, "not_applicable", "All scores are zero.")
    effective = float(values.sum()) ** 2 / squares
    strongest = _quote(scores.train_ids[np.argsort(-values, kind="stable")[:_NAMED]])
    detail = f"Effective number of examples {number(effective)} of {len(values):,}; strongest: {strongest}."
    if effective < _FEW * len(values):
        return Finding("SY201", title, "failed", detail, "look at these examples first; raise the damping.")
    return Finding("SY201", title, "passed", detail)


def constant_scores(report: Report) -> Finding:
    """SY202: some queries have the same score for every training example.

    Fails if the range of any column is at most a millionth of its largest absolute value. Typical causes: a query
    that the model answers with certainty in 32 bits, a measurement that ignores the model, a dead layer.
    """
    title = "Scores differ between examples"
    if not report.scores:
        return Finding("SY202", title, "not_applicable", "There are no scores.")
    scores = report.scores[0]
    low = np.full(len(scores.query_ids), np.inf)
    high = np.full(len(scores.query_ids), -np.inf)
    for _, block in scores.blocks():
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    constant = np.flatnonzero(high - low <= 1e-6 * np.maximum(np.abs(low), np.abs(high)))
    if len(constant):
        count = several(len(constant), "query", "queries")
        detail = f"{count} with constant scores: {_quote(scores.query_ids[constant])}."
        fix = "use the margin as measurement instead of the loss, or float64; leave these queries out."
        return Finding("SY202", title, "failed", detail, fix)
    return Finding("SY202", title, "passed", f"All {len(low):,} columns vary.")


def explained_by_class(report: Report) -> Finding:
    """SY203: the scores say little more than that examples of the same class help each other.

    Fails if the rank correlation with the class-similarity baseline, divided by the highest that its ties allow and
    averaged over up to 100 queries, is above 0.9.
    """
    title, other = "More than class similarity", _baseline(report, "ClassSimilarity")
    if (
        other is None
        or report.scores[0].axis != "pair"
        or other.values.shape != report.scores[0].values.shape
    ):
        return Finding(
            "SY203", title, "not_applicable", "The class-similarity baseline is not in this report."
        )
    columns = np.unique(np.linspace(0, len(other.query_ids) - 1, _COLUMNS).round().astype(int))
    mine = np.asarray(report.scores[0].values[:, columns], dtype=np.float64)
    same = agreement(mine, np.asarray(other.values[:, columns], dtype=np.float64))
    over = several(len(columns), "query", "queries")
    detail = f"Rank correlation {number(same)} of the highest that ties allow, over {over}."
    if same > _SAME:
        fix = "compare within classes, or use the margin between two classes as measurement."
        return Finding("SY203", title, "failed", detail, fix)
    return Finding("SY203", title, "passed", detail)


def duplicated_examples(report: Report) -> Finding:
    """SY204: training examples have exact copies.

    Fails if any two have the same inputs. Removing one copy changes little while the others stay, so scores of copies
    mislead one by one; copies with different labels are usually mistakes.
    """
    title = "No copies among the training examples"
    asked = len(report.scores[0].train_ids) if report.scores else len(report.train)
    if not report.train.inputs or len(report.train) < asked:
        earlier = [f for f in report.findings if f.code == "SY204" and f.outcome in ("passed", "failed")]
        if earlier:  # of a report that was loaded with only the examples it shows
            return earlier[0]
        return Finding("SY204", title, "not_applicable", "The training examples are not at hand.")
    found = duplicates(report.train)
    if not found.rows:
        return Finding("SY204", title, "passed", f"{len(report.train):,} different inputs.")
    detail = (
        f"{found.rows:,} of {len(report.train):,} training examples have the same inputs as an earlier one"
    )
    if found.conflicts:
        detail += f", {found.conflicts:,} of them with another label"
    fix = "remove copies before scoring, or judge the group of copies together."
    return Finding("SY204", title, "failed", f"{detail}: {_quote(found.examples)}.", fix)


def explained_by_loss(report: Report) -> Finding:
    """SY205: the scores say little more than the training loss.

    Fails if the rank correlation of the examples' suspicion (most harmful first) with the loss baseline is above 0.9:
    then the loss, which costs one forward pass, gives the same order.
    """
    title, other = "More than the training loss", _baseline(report, "Loss")
    if other is None or len(other.train_ids) != len(report.scores[0].train_ids):
        return Finding("SY205", title, "not_applicable", "The loss baseline is not in this report.")
    same = agreement(report.scores[0].harm()[:, None], other.harm()[:, None])
    detail = f"Rank correlation with the loss {number(same)} over {several(len(other.train_ids), 'example')}."
    if same > _SAME:
        return Finding(
            "SY205", title, "failed", detail, "the loss alone gives this order at a fraction of the cost."
        )
    return Finding("SY205", title, "passed", detail)


def done_differently(report: Report) -> Finding:
    """SY301: something was done differently from what was asked.

    Fails if scores or evidence carry a note: a fallback, a truncation, a part left out. The results may be fine.
    """
    title, notes = "Done as asked", all_notes(replace(report, plans=()))
    if not notes:
        return Finding("SY301", title, "passed", "No fallback, no truncation, nothing left out.")
    return Finding(
        "SY301", title, "failed", _sentences(notes), "read the notes; decide whether they matter here."
    )


def failed_fits(report: Report) -> Finding:
    """SY302: trainings failed.

    Fails if a note says that fits failed. They are left out of estimates, never given a number.
    """
    title, notes = "All trainings succeeded", [n for n in all_notes(report) if _FAILED.search(n)]
    if notes:
        fix = (
            "look at the messages of the failed fits in the run folder; lower the learning rate or drop less."
        )
        return Finding("SY302", title, "failed", _sentences(notes), fix)
    fits = sum(e.provenance.cost.fits for e in (*report.scores, *report.evidence))
    if not fits:
        return Finding("SY302", title, "not_applicable", "Nothing was trained.")
    return Finding("SY302", title, "passed", f"{several(fits, 'training')}, none failed.")


ALL: tuple[Check, ...] = (
    no_better_than_random,
    beaten_by_baseline,
    noise_exceeds_signal,
    not_verified,
    miscalibrated,
    dominated_by_few,
    constant_scores,
    explained_by_class,
    duplicated_examples,
    explained_by_loss,
    done_differently,
    failed_fits,
)


def run(
    report: Report, checks: Sequence[Check] = ALL, *, ignore: Collection[str] = ()
) -> tuple[Finding, ...]:
    """The findings of all checks, in order.

    Cost: a few passes over the first scores and one over the training examples.

    Args:
        report: What to look at. Its own findings are not read, but for SY204 where the training examples are no
            longer at hand.
        checks: What to look for: these and your own.
        ignore: Codes to mute: their outcome becomes ``"muted"``, their detail says what it would have been.

    Example:
        ``run(report, (*checks.ALL, my_check), ignore=("SY203",))``
    """
    findings = (check(report) for check in checks)
    return tuple(
        replace(f, outcome="muted", detail=f"Would be {f.outcome.replace('_', ' ')}. {f.detail}")
        if f.code in ignore
        else f
        for f in findings
    )


def _baseline(report: Report, name: str) -> Scores | None:
    return next((scores for scores in report.scores[1:] if scores.name == name), None)


def _list(evidence: Sequence[Evidence], report: Report) -> str:
    return (
        "; ".join(
            f"{metric(e.metric)} of {subject(e, report)}: {number(e.estimate)} [{interval(*e.interval)}]"
            + (f", random {number(e.control['estimate'])}" if "estimate" in e.control else "")
            for e in evidence
        )
        + "."
    )


def _sentences(notes: Sequence[str]) -> str:
    said = " ".join(clean_line(note, limit=300).rstrip(".") + "." for note in notes[:_NAMED])
    return said + (f" And {len(notes) - _NAMED} more, under provenance." if len(notes) > _NAMED else "")


def _quote(ids: Sequence[str] | np.ndarray) -> str:
    quoted = ", ".join(clean_line(example, limit=60) for example in ids[:_NAMED])
    return quoted + (f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else "")
