"""The report as tables for further work: polars frames."""

import re
from typing import TYPE_CHECKING

from steelyard.records import Report
from steelyard.report.about import label

if TYPE_CHECKING:
    import polars as pl

_FORMULA = re.compile(r"^[\s]*[=+\-@\t\r]")


def to_frames(report: Report, *, k: int = 10) -> "dict[str, pl.DataFrame]":
    """Every table of a report.

    Texts are as they are in the data. For a spreadsheet, pass the frame through :func:`for_spreadsheet` first.

    Args:
        report: The report.
        k: Proponents and opponents per query.

    Returns:
        ``scores``: one row per training example, one column per method with its per-example score, and one
        boolean column per known fact. ``top``: see ``Scores.top``; for per-query scores only. ``evidence``: one
        row per piece of evidence. ``plans``: one row per change. ``findings``: one row per check.
    """
    import polars as pl

    first = report.scores[0]
    columns: dict[str, object] = {"train_id": first.train_ids.astype(str)}
    for scores in report.scores:
        columns[label(scores, report)] = scores.per_example()
    for name, ids in report.truth.items():
        known = frozenset(ids)
        columns[name] = [str(i) in known for i in first.train_ids]
    frames = {
        "scores": pl.DataFrame(columns),
        "evidence": _evidence(report),
        "plans": _plans(report),
        "findings": pl.DataFrame(
            {
                name: [getattr(f, name) for f in report.findings]
                for name in ("code", "title", "outcome", "detail", "fix")
            },
            schema=dict.fromkeys(("code", "title", "outcome", "detail", "fix"), pl.String),
        ),
    }
    if first.axis == "pair":
        frames["top"] = first.top(k)
    return frames


def for_spreadsheet(frame: "pl.DataFrame") -> "pl.DataFrame":
    """The frame with a quote before every text that a spreadsheet would run as a formula."""
    import polars as pl

    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    return frame.with_columns(
        pl.when(pl.col(name).str.contains(_FORMULA.pattern))
        .then(pl.lit("'") + pl.col(name))
        .otherwise(pl.col(name))
        .alias(name)
        for name in texts
    )


def _evidence(report: Report) -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(
        [
            {
                "metric": e.metric,
                "subject": e.subject,
                "estimate": e.estimate,
                "low": e.interval[0],
                "high": e.interval[1],
                "level": e.level,
                "unit": e.unit,
                "better": e.better,
                "control": e.control.get("estimate"),
                "p_value": e.p_value,
                "verdict": e.verdict,
            }
            for e in report.evidence
        ],
        schema={
            **dict.fromkeys(("metric", "subject"), pl.String),
            **dict.fromkeys(("estimate", "low", "high", "level"), pl.Float64),
            **dict.fromkeys(("unit", "better"), pl.String),
            **dict.fromkeys(("control", "p_value"), pl.Float64),
            "verdict": pl.String,
        },
    )


def _plans(report: Report) -> "pl.DataFrame":
    import polars as pl

    names = ("plan", "action", "train_id", "previous", "label", "weight", "reason")
    rows = [
        {
            "plan": position,
            "action": plan.action,
            "train_id": str(example),
            "previous": None if plan.previous is None else str(plan.previous[i]),
            "label": None if plan.labels is None else str(plan.labels[i]),
            "weight": None if plan.weights is None else float(plan.weights[i]),
            "reason": plan.reasons[i],
        }
        for position, plan in enumerate(report.plans)
        for i, example in enumerate(plan.ids)
    ]
    kinds = {"plan": pl.Int64, "weight": pl.Float64}
    return pl.DataFrame(rows, schema={name: kinds.get(name, pl.String) for name in names})
