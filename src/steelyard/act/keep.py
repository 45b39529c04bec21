"""Plans that keep only the most helpful training examples."""

from steelyard.act.ranking import by_harm, provenance, reasons, size_of
from steelyard.records import Plan, Scores


def keep(scores: Scores, *, fraction: float | None = None, count: int | None = None) -> Plan:
    """Keep the examples that the scores call most helpful, averaged over the queries, and drop all others.

    ``keep(count=k)`` is the exact complement of ``drop(count=n - k)``.

    Args:
        scores: Per query or per example, in any unit.
        fraction: Share of the training examples to keep, above 0 and below 1.
        count: Or how many.

    Returns:
        A plan for the training set of the scores, most helpful first.

    Raises:
        SettingError: If not exactly one of ``fraction`` and ``count`` is given, or it is out of range.
        NumericsError: If a score is not finite.
    """
    size = size_of(len(scores.train_ids), fraction=fraction, count=count, action="keep")
    rows = by_harm(scores)[::-1][:size]
    return Plan(
        action="keep",
        ids=scores.train_ids[rows],
        reasons=reasons(scores, rows),
        train_checksum=scores.train_checksum,
        provenance=provenance(scores, {"by": "keep", "fraction": fraction, "count": count}, size),
    )
