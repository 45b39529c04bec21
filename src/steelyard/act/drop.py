"""Plans that drop the most harmful training examples."""

from steelyard.act.ranking import by_harm, provenance, reasons, size_of
from steelyard.records import Plan, Scores


def drop(scores: Scores, *, fraction: float | None = None, count: int | None = None) -> Plan:
    """Drop the examples that the scores call most harmful, averaged over the queries.

    Equal scores are dropped in the order of their ids. If fewer examples are harmful than asked for, the
    least helpful follow; their reasons say so.

    Args:
        scores: Per query or per example, in any unit.
        fraction: Share of the training examples to drop, above 0 and below 1.
        count: Or how many.

    Returns:
        A plan for the training set of the scores, most harmful first.

    Raises:
        SettingError: If not exactly one of ``fraction`` and ``count`` is given, or it is out of range.
        NumericsError: If a score is not finite.
    """
    size = size_of(len(scores.train_ids), fraction=fraction, count=count, action="drop")
    rows = by_harm(scores)[:size]
    return Plan(
        action="drop",
        ids=scores.train_ids[rows],
        reasons=reasons(scores, rows),
        train_checksum=scores.train_checksum,
        provenance=provenance(scores, {"by": "drop", "fraction": fraction, "count": count}, size),
    )
