"""Which scores, baselines and evidence of a report belong together, and how far two orders agree."""

import re

import numpy as np
from jaxtyping import Float

from steelyard.maths.ranks import midranks, sort_columns
from steelyard.records import Evidence, Plan, Report, Scores
from steelyard.report.wording import clean_line

COMPARABLE = (
    *(
        "lds",
        "loo",
        "qld",
        "brittleness",
        "removal_curve",
        "retain_curve",
        "targeted_edit",
        "poison",
        "fix_labels",
        "tail_patch",
        "mislabel_auc",
        "mrr",
    ),
    *("recall", "agreement", "class_detection", "subclass_detection", "shortcut", "mixed_data"),
)
"""Metrics that a method and a baseline share, so that their estimates can be set side by side."""


def label(scores: Scores, report: Report) -> str:
    """What scores are called in this report: the method's name, with its settings where the name is not unique."""
    alike = sum(other.name == scores.name for other in report.scores)
    return scores.method if alike > 1 else scores.name


def baseline_of(evidence: Evidence, report: Report) -> Scores | None:
    """The baseline that this evidence is about; None if it is about the method or its plans.

    The subject of evidence is the method's ``repr`` or names the method; one that names none of the scores
    is about what was asked for.
    """
    for position, scores in enumerate(report.scores):
        if evidence.subject == scores.method:
            return scores if position else None
    named = [scores for scores in report.scores if _names(evidence.subject, scores.name)]
    return None if not named or named[0] is report.scores[0] else named[0]


def subject(evidence: Evidence, report: Report) -> str:
    """What evidence is about, for people: the label of the scores, or the plan in the verifier's words."""
    found = next((scores for scores in report.scores if scores.method == evidence.subject), None)
    return clean_line(evidence.subject if found is None else label(found, report), limit=120)


def about_method(report: Report, *metrics: str) -> tuple[Evidence, ...]:
    """Evidence about the method or its plans, of those metrics, or of every metric if none is named."""
    return tuple(
        e for e in report.evidence if (not metrics or e.metric in metrics) and baseline_of(e, report) is None
    )


def about_baselines(report: Report, metric: str) -> dict[str, Evidence]:
    """Evidence of that metric about each baseline, by the baseline's label."""
    named = ((baseline_of(e, report), e) for e in report.evidence if e.metric == metric)
    return {label(scores, report): e for scores, e in named if scores is not None}


def better(evidence: Evidence, other: Evidence) -> bool:
    """Whether the first estimate is better than the second, in the metric's own direction."""
    if evidence.better == "higher":
        return evidence.estimate > other.estimate
    return evidence.estimate < other.estimate


def agreement(x: Float[np.ndarray, "item column"], y: Float[np.ndarray, "item column"]) -> float:
    """Mean over columns of Spearman's correlation, divided by the highest that the ties of both allow.

    A score with few distinct values, such as "same class or not", cannot reach a plain rank correlation of 1 with
    one that has many, however much the two say the same.

    Returns:
        1 if one order follows from the other up to ties; NaN if every column is constant in ``x`` or ``y``.
    """
    left, right = midranks(sort_columns(x)), midranks(sort_columns(y))
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    most = (np.sort(left, axis=0) * np.sort(right, axis=0)).sum(axis=0)
    usable = most > 0
    if not usable.any():
        return float("nan")
    return float(((left * right).sum(axis=0)[usable] / most[usable]).mean())


def scores_of(plan: Plan, report: Report) -> Scores:
    """The scores that a plan was made from, as far as its provenance says; else those asked for."""
    made_from = plan.provenance.resolved.get("scores")
    return next((scores for scores in report.scores if scores.method == made_from), report.scores[0])


def all_notes(report: Report) -> tuple[str, ...]:
    """Every note of every record, once."""
    records = (report, *report.scores, *report.plans, *report.evidence)
    return tuple(
        dict.fromkeys(note for record in records for note in record.provenance.notes if note.strip())
    )


def _names(subject: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", subject) is not None
