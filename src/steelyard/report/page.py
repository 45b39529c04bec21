"""The report as one HTML file that loads nothing, runs nothing and reads in any browser, on paper and on a phone."""

from collections.abc import Sequence
from pathlib import Path

from steelyard.errors import ShapeError
from steelyard.records import Evidence, Examples, Plan, Report, Scores
from steelyard.records.files import write_whole
from steelyard.report import sections, tokens
from steelyard.report.album import Album
from steelyard.report.charts import of_scores
from steelyard.report.evidence_charts import of_evidence
from steelyard.report.gather import build
from steelyard.report.selection import View
from steelyard.report.shell import filled
from steelyard.report.wording import clean_line


def html(
    subject: Report | Scores | Sequence[Scores],
    *records: Scores | Plan | Evidence,
    path: str | Path = "report.html",
    train: Examples | None = None,
    query: Examples | None = None,
    view: View | None = None,
) -> Path:
    """Write the report as one HTML file.

    The file holds everything: pictures as data, charts as drawings, no script, no link to anywhere. Text of
    training data is escaped, and invisible characters in it are made visible.

    Cost: about three seconds for the charts, plus a few passes over the scores.

    Args:
        subject: A report, or scores, or several of them: the first were asked for, the others are baselines.
        records: With scores: plans, evidence and further baselines in any order.
        path: Where to write.
        train: The training examples, for showing them; without them only their ids are shown.
        query: The queries, likewise.
        view: How much to show and how to draw examples.

    Returns:
        The path.

    Raises:
        ShapeError: If a report is given together with records or examples, or there are no scores.

    Example:
        ``sy.report.html(scores, plan, proof, path="report.html", train=problem.train, query=problem.query)``
    """
    page = render(as_report(subject, *records, train=train, query=query), view=view)
    return write_whole(path, page)


def as_report(
    subject: Report | Scores | Sequence[Scores],
    *records: Scores | Plan | Evidence,
    train: Examples | None = None,
    query: Examples | None = None,
) -> Report:
    """What was given, as a report.

    Raises:
        ShapeError: If a report is given together with records or examples, or there are no scores.
    """
    if not isinstance(subject, Report):
        return build(subject, *records, train=train, query=query)
    if records or train is not None or query is not None:
        raise ShapeError(
            "a report was given together with further records or examples.",
            fix="give them to report.build(scores, ..., train=..., query=...), and its result here alone.",
        )
    if not subject.scores:
        raise ShapeError("the report holds no scores.", fix="build it with report.build(scores, ...).")
    return subject


def render(report: Report, *, view: View | None = None) -> str:
    """The page as text; the same report gives the same page, byte for byte."""
    view = view or View()
    examples = Album(report, view)
    queries, chosen = sections.asked(report, examples, view)
    standing, sign, words = sections.headline(report)
    return filled(
        "report.html.j2",
        title=clean_line(report.title, limit=200),
        verdict=clean_line(report.verdict, limit=4000),
        standing=standing,
        standing_sign=sign,
        standing_words=words,
        facts=sections.facts(report),
        verification=sections.verification(report),
        evidence_charts=of_evidence(report),
        powers=sections.powers(report),
        details=[sections.details(e) for e in report.evidence if e.table],
        plans=sections.plans(report, examples, view),
        queries=queries,
        chosen=chosen,
        kind=examples.kind,
        score_charts=of_scores(report),
        baselines=sections.baselines(report),
        legend=tokens.legend(report),
        parts_tables=tokens.part_tables(report),
        findings=sections.findings(report),
        costs=sections.costs(report),
        notes=sections.notes(report),
        provenance=sections.provenance(report),
        made_by=sections.made_by(report),
        measure=sections.measure(report),
        measured=clean_line(report.scores[0].measurement.name.replace("_", " "), limit=40),
    )
