"""What stands on the page, as plain text and pictures; the template only lays it out.

Every text that comes from data, settings or names of the user passes ``clean`` or ``clean_line`` on its way here.
"""

import json
from dataclasses import dataclass
from typing import Any

from steelyard.records import Cost, Evidence, Plan, Provenance, Report, TokenScores
from steelyard.report.about import about_method, agreement, all_notes, baseline_of, label, scores_of, subject
from steelyard.report.album import Album, Card
from steelyard.report.figure import Figure
from steelyard.report.noise import in_noise
from steelyard.report.selection import Neighbours, View, chosen_queries, neighbours, suspects
from steelyard.report.showing import Shown
from steelyard.report.table import Table
from steelyard.report.verdict import by_weight, carrying_out, standing, verified_plan
from steelyard.report.wording import (
    clean,
    clean_line,
    interval,
    metric,
    number,
    percent,
    scale,
    several,
)

_TABLE_ROWS = 200
_OUTCOMES = {
    "failed": ("✗", "failed"),
    "passed": ("✓", "passed"),
    "not_applicable": ("–", "not applicable"),
    "skipped": ("–", "skipped"),
    "muted": ("○", "muted"),
}
_STANDINGS = {
    "confirmed": ("✓", "Confirmed: better than random"),
    "refuted": ("✗", "Refuted: not better than random"),
    "mixed": ("!", "Mixed: confirmed in part, refuted in part"),
    "inconclusive": ("?", "Inconclusive: noise exceeds signal"),
    "unverified": ("–", "Not verified"),
}


@dataclass(frozen=True)
class Fact:
    """One key number: what it is, the number, and a remark."""

    name: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Group:
    """Examples shown together: those of a plan, or of one side of a query."""

    title: str
    says: tuple[str, ...]
    cards: tuple[Card, ...]
    more: str = ""


@dataclass(frozen=True)
class Asked:
    """A query with what helped and what harmed it most."""

    number: int
    shown: Shown
    alt: str
    proponents: Group
    opponents: Group


@dataclass(frozen=True)
class Check:
    """One coded check in words."""

    code: str
    title: str
    sign: str
    outcome: str
    detail: str
    fix: str


def headline(report: Report) -> tuple[str, str, str]:
    """Standing in one word, its sign, and in words."""
    word = standing(report)
    return word, *_STANDINGS[word]


def facts(report: Report) -> tuple[Fact, ...]:
    """The key numbers."""
    scores = report.scores[0]
    found = [Fact("Training examples", f"{len(scores.train_ids):,}")]
    if scores.axis == "pair":
        found.append(Fact("Queries", f"{len(scores.query_ids):,}", f"{_measure(report)}"))
    for e in by_weight(about_method(report))[:3]:
        random = f"; random {number(e.control['estimate'])}" if "estimate" in e.control else ""
        plan = verified_plan(e, report.plans) if e.metric == "retraining" else None
        name = f"Gain by {carrying_out(plan)}" if plan else metric(e.metric)
        found.append(Fact(name, number(e.estimate), f"{clean_line(e.unit)}, {interval(*e.interval)}{random}"))
    for plan in report.plans[:2]:
        known = [f"{percent(hit)} {name}" for name, hit in _precision(report, plan) if plan.action != "keep"]
        found.append(Fact(f"Plan: {plan.action}", f"{len(plan):,}", clean_line("; ".join(known))))
    failed = sum(f.outcome == "failed" for f in report.findings)
    done = sum(f.outcome in ("failed", "passed") for f in report.findings)
    if report.findings:
        found.append(Fact("Checks failed", f"{failed}", f"of {done} that apply"))
    cost = report.provenance.cost
    if cost.seconds:
        found.append(Fact("Time", f"{number(cost.seconds)} s", _work(cost)))
    return tuple(found)


def verification(report: Report) -> Table:
    """Every piece of evidence beside its random control."""
    rows: list[tuple[str, ...]] = []
    for e in by_weight(report.evidence):
        control = "–"
        if "estimate" in e.control:
            control = number(e.control["estimate"], 2)
            if {"low", "high"} <= e.control.keys():
                control += f" ({interval(e.control['low'], e.control['high'], 2)})"
        rows.append(
            (
                metric(e.metric),
                subject(e, report),
                f"{_STANDINGS[e.verdict][0]} {e.verdict}",
                f"{number(e.estimate)} ({interval(*e.interval)})",
                control,
                clean_line(e.unit, limit=40),
                "–" if e.p_value is None else ("< 0.001" if e.p_value < 0.001 else number(e.p_value, 2)),
            )
        )
    levels = sorted({percent(e.level) for e in report.evidence})
    head = ("Metric", "Of", "Verdict", "Estimate", "Random control", "Unit", "p")
    return Table(f"Verification beside random; intervals at {', '.join(levels)}", head, tuple(rows))


def details(evidence: Evidence) -> Table:
    """The rows behind one piece of evidence."""
    head = tuple(clean_line(name, limit=60) for name in evidence.table)
    length = min((len(column) for column in evidence.table.values()), default=0)
    rows = tuple(
        tuple(_value(column[i]) for column in evidence.table.values())
        for i in range(min(length, _TABLE_ROWS))
    )
    caption = f"{metric(evidence.metric)} of {clean_line(evidence.subject, limit=120)}"
    return Table(caption, head, rows, hidden=max(0, length - _TABLE_ROWS))


def plans(report: Report, album: Album, view: View) -> tuple[Group, ...]:
    """One group per plan; where there is none, the most suspect examples."""
    scores = report.scores[0]
    if not report.plans:
        cards = album.suspects(suspects(scores, view.plan))
        says = (f"No plan was made. These are the {len(cards)} most suspect of {len(scores.train_ids):,}.",)
        return (Group("Most suspect training examples", says, cards),)
    groups: list[Group] = []
    for plan in report.plans:
        by = clean_line(label(scores_of(plan, report), report), limit=60)
        says = [
            f"{several(len(plan), 'training example')} of {len(scores.train_ids):,} to {plan.action}, by {by}."
        ]
        for name, ids in report.truth.items():
            hits = len(set(ids) & {str(i) for i in plan.ids})
            share = len(ids) / len(scores.train_ids)
            says.append(
                f"{hits:,} of these {len(plan):,} are known to be {clean_line(name, limit=40)} "
                f"(precision {percent(hits / max(1, len(plan)))}, by chance {percent(share)}); "
                f"that is {percent(hits / max(1, len(ids)))} of all {len(ids):,}."
            )
        hidden = len(plan) - view.plan
        more = f"{hidden:,} more are in the plan and not shown." if hidden > 0 else ""
        cards = album.planned(plan, view.plan)
        groups.append(Group(f"Plan to {plan.action}", tuple(says), cards, more))
    return tuple(groups)


def asked(report: Report, album: Album, view: View) -> tuple[tuple[Asked, ...], str]:
    """The queries shown, and how they were chosen."""
    queries, chosen = chosen_queries(report, view.queries)
    found = neighbours(report.scores[0], queries, view.examples)
    return tuple(_asked(i + 1, near, report, album) for i, near in enumerate(found)), chosen


def baselines(report: Report) -> Table:
    """The method and its baselines: agreement of their orders, and what verification found for each."""
    first = report.scores[0]
    metrics = list(dict.fromkeys(e.metric for e in by_weight(report.evidence) if e.metric != "retraining"))
    harm = first.harm()[:, None]
    rows: list[tuple[str, ...]] = []
    for position, scores in enumerate(report.scores):
        agrees = agreement(harm, scores.harm()[:, None]) if position else None
        row = [
            clean_line(label(scores, report), limit=80),
            "asked for" if position == 0 else "beside it",
            number(agrees),
        ]
        for name in metrics:
            of = [
                e
                for e in report.evidence
                if e.metric == name and baseline_of(e, report) is (scores if position else None)
            ]
            row.append(number(of[0].estimate) if of else "–")
        seconds = scores.provenance.cost.seconds
        rows.append((*row, f"{number(seconds)} s" if seconds else "–"))
    head = ("Scores", "Role", "Rank agreement", *(metric(m) for m in metrics), "Time")
    return Table("The scores asked for, and those beside them", head, tuple(rows))


def findings(report: Report) -> tuple[Check, ...]:
    """The coded checks, failed ones first."""
    order = list(_OUTCOMES)
    return tuple(
        Check(
            clean_line(f.code, limit=12),
            clean_line(f.title, limit=80),
            *_OUTCOMES[f.outcome],
            clean_line(f.detail, limit=1200),
            clean_line(f.fix, limit=400),
        )
        for f in sorted(report.findings, key=lambda f: order.index(f.outcome))
    )


def costs(report: Report) -> Table:
    """What every part took, beside what it was predicted to take."""
    parts = [(f"Scores by {label(s, report)}", s.provenance) for s in report.scores]
    parts += [(f"{metric(e.metric)} of {subject(e, report)}", e.provenance) for e in report.evidence]
    rows = [
        (clean_line(name, limit=100), what, *_cost(cost))
        for name, provenance in parts
        for what, cost in (("predicted", provenance.predicted), ("measured", provenance.cost))
        if cost is not None and cost != Cost()
    ]
    if report.provenance.cost != Cost():
        rows.append(("Everything", "measured", *_cost(report.provenance.cost)))
    head = ("Part", "", "Gradient-equivalents", "Fits", "Seconds", "Peak memory", "On disk")
    return Table(
        "Cost: one gradient-equivalent is a forward and backward pass of one example", head, tuple(rows)
    )


def provenance(report: Report) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Settings as given and as resolved, seeds, checksums and versions, by record."""
    records: list[tuple[str, Provenance]] = [("Report", report.provenance)]
    records += [(f"Scores: {s.method}", s.provenance) for s in report.scores]
    records += [(f"Plan to {p.action} {len(p)} examples", p.provenance) for p in report.plans]
    records += [(f"Evidence: {e.metric} of {e.subject}", e.provenance) for e in report.evidence]
    records += [
        (f"{'Tokens' if isinstance(s, TokenScores) else s.by.capitalize()}: {s.method}", s.provenance)
        for s in report.splits
    ]
    blocks: list[tuple[str, tuple[tuple[str, str], ...]]] = []
    for name, record in records:
        lines = [
            (f"{kind}: {clean_line(key, limit=80)}", _setting(value))
            for kind in ("given", "resolved", "seeds", "checksums", "versions")
            for key, value in getattr(record, kind).items()
        ]
        lines += [("note", clean(note, limit=2000)) for note in record.notes]
        if lines:
            blocks.append((clean_line(name, limit=200), tuple(lines)))
    return tuple(blocks)


def notes(report: Report) -> tuple[str, ...]:
    """What was done differently from what was asked."""
    return tuple(clean(note, limit=2000) for note in all_notes(report))


def chart_table(chart: Figure) -> Table:
    """The numbers of a chart."""
    return Table(chart.title, chart.head, chart.rows)


def _asked(position: int, near: Neighbours, report: Report, album: Album) -> Asked:
    rank = report.scores[0].unit == "rank"
    shown = album.asked(near)
    titles = ("Most similar", "Least similar") if rank else ("Helped most", "Harmed most")
    none = "" if rank else "No training example has a score of this sign."
    groups = [
        Group(title, (none,) if not pairs else (), album.near(near, side))
        for title, side, pairs in zip(
            titles, ("for", "against"), (near.proponents, near.opponents), strict=True
        )
    ]
    return Asked(position, shown, shown.name("query"), *groups)


def _precision(report: Report, plan: Plan) -> list[tuple[str, float]]:
    named = {str(i) for i in plan.ids}
    return [(name, len(named & set(ids)) / max(1, len(named))) for name, ids in report.truth.items()]


def _measure(report: Report) -> str:
    measurement = report.scores[0].measurement
    return clean_line(f"{measurement.name.replace('_', ' ')} in {measurement.unit}", limit=60)


def _cost(cost: Cost) -> tuple[str, ...]:
    return (
        f"{cost.gradients:,.0f}" if cost.gradients else "–",
        f"{cost.fits:,}" if cost.fits else "–",
        number(cost.seconds) if cost.seconds else "–",
        scale(cost.peak_bytes) if cost.peak_bytes else "–",
        scale(cost.disk_bytes) if cost.disk_bytes else "–",
    )


def _work(cost: Cost) -> str:
    parts = [several(cost.fits, "fit")] if cost.fits else []
    if cost.gradients:
        parts.append(f"{cost.gradients:,.0f} gradient-equivalents")
    return ", ".join(parts)


def _setting(value: Any) -> str:
    return clean_line(value if isinstance(value, str) else json.dumps(value, default=str), limit=400)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return number(value) if isinstance(value, float) else clean_line(value, limit=120)


def powers(report: Report) -> tuple[str, ...]:
    """What each verification could have seen, in words."""
    return tuple(
        f"{metric(e.metric)}: {clean_line(e.power, limit=600)}"
        for e in by_weight(about_method(report))
        if e.power
    )


def measure(report: Report) -> str:
    """What scores mean, in one sentence."""
    scores = report.scores[0]
    if scores.axis == "example":
        unit = clean_line(scores.unit, limit=40)
        return f"One score per training example, in {unit}; {scores.suspect} scores are suspect."
    name = clean_line(scores.measurement.name.replace("_", " "), limit=60)
    noise = in_noise(scores)
    if scores.unit == "rank":
        return f"Scores are similarities: they order training examples and say nothing about amounts. {noise}".strip()
    worse = "rise" if scores.measurement.lower_is_better else "fall"
    return (
        f"A score of +0.01 predicts that the {name} of the query would {worse} by 0.01 "
        f"{clean_line(scores.unit, limit=40)} if the example were removed: positive helps, negative harms. {noise}"
    ).strip()


def made_by(report: Report) -> str:
    """Name and version of what made the scores."""
    return clean_line(f"Steelyard {report.provenance.versions.get('steelyard', '')}".strip(), limit=60)
