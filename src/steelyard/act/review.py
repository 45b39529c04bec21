"""A queue of silver labels for people to check: those that influence says harm (Banerjee et al. 2024, InfFeed)."""

import numpy as np

from steelyard.act.ranking import by_harm, provenance, reasons
from steelyard.errors import DataError, SettingError
from steelyard.records import Examples, Plan, Scores


def review(scores: Scores, train: Examples, *, silver: str) -> Plan:
    """Name the examples with a silver label that harm the trusted queries, most harmful first.

    Until somebody has looked at them, the plan leaves them out; it may name none.

    Args:
        scores: Influence on trusted queries: pairs, in the unit of the measurement or ranks.
        train: The training examples that were scored.
        silver: Column that says whose label is silver: made by a program instead of a person; true or 1.

    Raises:
        DataError: If the scores are about other examples, there is no such column, or no label is silver.
        SettingError: If the scores are not about queries.

    Source: Banerjee et al. (2024), "InfFeed: Influence Functions as a Feedback to Improve the Performance of
    Subjective Tasks", second objective.
    """
    if scores.train_checksum != train.checksum:
        raise DataError(
            "review: the scores are about other training examples.", fix="give those that were scored."
        )
    if scores.axis != "pair":
        raise SettingError(
            f"review: {scores.name} scores examples by themselves.",
            fix="score against trusted queries, for instance by gauss_newton or ekfac.",
        )
    if silver not in train.columns:
        raise DataError(
            f"{train.source}: there is no column {silver!r}; there are {', '.join(train.columns)}.",
            fix="name the column that says whose label is silver.",
        )
    known = np.asarray(train.column(silver)[:]).astype(str)
    is_silver = np.isin(known, ("True", "true", "1", "1.0", "yes"))
    if not is_silver.any():
        raise DataError(
            f"{train.source}: column {silver!r} marks no label as silver.", fix="mark them by true or 1."
        )
    order = by_harm(scores)
    harmful = np.asarray(scores.values, dtype=np.float64).mean(axis=1) < 0
    rows = order[(is_silver & harmful)[order]]
    note = (
        f"{len(rows)} of {int(is_silver.sum())} silver labels have a negative influence and wait for review"
    )
    return Plan(
        action="drop",
        ids=scores.train_ids[rows],
        reasons=tuple(f"silver label to be checked: {reason}" for reason in reasons(scores, rows)),
        train_checksum=train.checksum,
        provenance=provenance(scores, {"by": "review", "silver": silver}, len(rows)).with_notes(note),
    )
