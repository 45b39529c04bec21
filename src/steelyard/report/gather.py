"""From records to a report: baselines told from the scores asked for, checks run, the verdict put in words."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from steelyard.errors import DataError, ShapeError
from steelyard.records import Cost, Evidence, Examples, PartScores, Plan, Report, Scores, TokenScores
from steelyard.report import checks
from steelyard.report.verdict import in_words


def build(  # noqa: PLR0913  (the six are named, and only the first is needed)
    scores: Scores | Sequence[Scores],
    *records: Scores | Plan | Evidence | TokenScores | PartScores,
    train: Examples | None = None,
    query: Examples | None = None,
    truth: Mapping[str, Collection[str]] | None = None,
    title: str = "",
    ignore: Collection[str] = (),
) -> Report:
    """A report of scores, and of whatever else is known about them.

    Cost: that of the checks; see :func:`steelyard.report.checks.run`.

    Args:
        scores: The scores that were asked for; of several, the first, the others being baselines.
        records: Further baselines, plans, evidence and scores taken apart, in any order.
        train: The training examples, for showing them; only their ids are shown if None.
        query: The queries, likewise. See :func:`annotate` for adding what the model predicts for them.
        truth: Known facts about training examples: name to ids, such as ``{"flipped": ids}``.
        title: Headline; made from the scores if empty.
        ignore: Codes of checks to mute.

    Raises:
        ShapeError: If no scores are given, or the records are about other training examples.
        DataError: If a fact names an example that has no score.
        NumericsError: If a score is NaN or infinite.
    """
    given = (scores,) if isinstance(scores, Scores) else tuple(scores)
    given += tuple(r for r in records if isinstance(r, Scores))
    if not given:
        raise ShapeError("A report needs scores, none were given.", fix="give the result of a method.")
    for scores_given in given:
        scores_given.check_finite()
    first = given[0]
    plans = tuple(r for r in records if isinstance(r, Plan))
    _same_training_set(first, given[1:], plans)
    facts = {name: tuple(str(i) for i in ids) for name, ids in (truth or {}).items()}
    _known(first, facts)
    report = Report(
        title=title or _title(first),
        verdict="",
        scores=given,
        train=train if train is not None else only_ids(first.train_ids, first.train_checksum),
        query=query if query is not None else only_ids(first.query_ids, first.query_checksum),
        plans=plans,
        evidence=tuple(r for r in records if isinstance(r, Evidence)),
        splits=tuple(r for r in records if isinstance(r, TokenScores | PartScores)),
        truth=facts,
        provenance=replace(first.provenance, notes=(), predicted=None),
    )
    return judge(report, ignore=ignore)


def judge(report: Report, extra: Sequence[checks.Check] = (), *, ignore: Collection[str] = ()) -> Report:
    """The same report with findings, verdict and total cost made anew.

    Args:
        report: What to judge.
        extra: Your own checks, run after those of ``checks.ALL``.
        ignore: Codes to mute.
    """
    parts = (*report.scores, *report.plans, *report.evidence)
    cost = sum((part.provenance.cost for part in parts), start=Cost())
    report = replace(report, provenance=replace(report.provenance, cost=cost))
    report = replace(report, findings=checks.run(report, (*checks.ALL, *extra), ignore=ignore))
    return replace(report, verdict=in_words(report))


def only_ids(ids: np.ndarray, checksum: str) -> Examples:
    """Examples of which nothing but the ids is known."""
    return Examples(
        np.asarray(ids, dtype=str), {}, inputs=(), label=None, checksum=checksum, source="ids only"
    )


def _same_training_set(first: Scores, baselines: Sequence[Scores], plans: Sequence[Plan]) -> None:
    for other in baselines:
        if not np.array_equal(other.train_ids, first.train_ids):
            raise ShapeError(
                f"{other.name} scored {len(other.train_ids)} training examples, {first.name} {len(first.train_ids)} "
                "or others.",
                fix="report scores of the same training examples together.",
            )
    known = set(first.train_ids.tolist())
    for plan in plans:
        unknown = [str(i) for i in plan.ids if str(i) not in known]
        if unknown:
            raise ShapeError(
                f"the plan to {plan.action} {len(plan)} examples names {unknown[0]!r}, which {first.name} did not "
                f"score ({len(unknown)} such ids).",
                fix="report a plan together with the scores that it was made from.",
            )


def _known(first: Scores, facts: Mapping[str, tuple[str, ...]]) -> None:
    known = set(first.train_ids.tolist())
    for name, ids in facts.items():
        unknown = [i for i in ids if i not in known]
        if unknown:
            raise DataError(
                f"truth {name!r} names {unknown[0]!r}, which has no score ({len(unknown)} such ids).",
                fix="give ids of the training examples.",
            )


def _title(scores: Scores) -> str:
    if scores.axis == "example":
        return f"{scores.name}: {len(scores.train_ids):,} training examples"
    return f"{scores.name}: {len(scores.train_ids):,} training examples, {len(scores.query_ids):,} queries"
