"""Plans that keep only the most helpful training examples."""

import numpy as np
from jaxtyping import Int

from steelyard.act.ranking import by_harm, provenance, reasons, size_of
from steelyard.errors import ShapeError
from steelyard.records import Plan, Scores


def keep(
    scores: Scores,
    *,
    fraction: float | None = None,
    count: int | None = None,
    order: Int[np.ndarray, " chosen"] | None = None,
) -> Plan:
    """Keep the examples that the scores call most helpful, averaged over the queries, and drop all others.

    ``keep(count=k)`` is the exact complement of ``drop(count=n - k)``.

    Args:
        scores: Per query or per example, in any unit.
        fraction: Share of the training examples to keep, above 0 and below 1.
        count: Or how many.
        order: Rows to keep, best first, at least as many as are asked for, where a method chose them as a set; None:
            in the order of the scores.

    Returns:
        A plan for the training set of the scores, most helpful first.

    Raises:
        SettingError: If not exactly one of ``fraction`` and ``count`` is given, or it is out of range.
        ShapeError: If ``order`` has fewer rows, or one twice.
        NumericsError: If a score is not finite.
    """
    size = size_of(len(scores.train_ids), fraction=fraction, count=count, action="keep")
    rows = (by_harm(scores)[::-1] if order is None else order)[:size]
    if len(np.unique(rows)) < size:
        raise ShapeError(
            f"keep: order names {len(np.unique(rows))} rows, but {size} are to be kept.",
            fix="give each row once.",
        )
    return Plan(
        action="keep",
        ids=scores.train_ids[rows],
        reasons=reasons(scores, rows),
        train_checksum=scores.train_checksum,
        provenance=provenance(scores, {"by": "keep", "fraction": fraction, "count": count}, size),
    )
