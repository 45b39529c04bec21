"""Model-aware selection (DsDm): keep the examples that a datamodel says lower the loss of a target the most."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from steelyard.act.ranking import provenance, size_of
from steelyard.errors import DataError, SettingError
from steelyard.records import Plan, Scores


def select_for_target(
    scores: Scores,
    *,
    target: Sequence[str] | None = None,
    fraction: float | None = None,
    count: int | None = None,
) -> Plan:
    r"""Keep the examples whose datamodel weights for the target queries are best, and drop all others.

    A linear datamodel predicts the target's measurement after training on S as :math:`\sum_{i \in S} \theta_i` plus a
    constant. Of all subsets of one size, that prediction is best for the examples with the largest weights, averaged
    over the target's queries. Each reason says the weight, its standard error and its rank; the plan's provenance
    says what the datamodel predicts that the kept examples give beyond a random subset of that size.

    Args:
        scores: Datamodel weights, by ``Datamodels`` or another method whose scores add up.
        target: Ids of the queries that matter; all if None.
        fraction: Share of the training examples to keep, above 0 and below 1.
        count: Or how many.

    Returns:
        A plan for the training set of the scores, best first.

    Raises:
        SettingError: If scores are ranks or have no queries, or the size is out of range.
        DataError: If a query of the target has no scores.

    Source: Engstrom, Feldmann & Madry (2024), "DsDm: Model-Aware Dataset Selection with Datamodels".
    """
    if scores.unit == "rank" or scores.axis != "pair":
        raise SettingError(
            f"{scores.name} gives no weights that add up (unit {scores.unit!r}, one column per {scores.axis}).",
            fix="use the scores of datamodels, or act.keep for any scores.",
        )
    size = size_of(len(scores.train_ids), fraction=fraction, count=count, action="select_for_target")
    columns = _columns(scores, target)
    weights = np.asarray(scores.check_finite().values)[:, columns].mean(axis=1, dtype=np.float64)
    order = np.lexsort((scores.train_ids.astype(str), -weights))
    rows = order[:size]
    expected = weights.mean() * size
    made = provenance(
        scores,
        {"by": "select_for_target", "fraction": fraction, "count": count, "target": len(columns)},
        size,
    )
    extra = {
        "predicted gain over a random subset": float(weights[rows].sum() - expected),
        "unit": scores.unit,
    }
    return Plan(
        action="keep",
        ids=scores.train_ids[rows],
        reasons=tuple(
            _reason(scores, int(row), float(weights[row]), rank, columns) for rank, row in enumerate(rows, 1)
        ),
        train_checksum=scores.train_checksum,
        provenance=replace(made, resolved={**made.resolved, **extra}),
    )


def _columns(scores: Scores, target: Sequence[str] | None) -> np.ndarray:
    if target is None:
        return np.arange(len(scores.query_ids))
    if not len(target):
        raise DataError("the target has no queries.", fix="name at least one, or leave target out for all.")
    place = {str(name): column for column, name in enumerate(scores.query_ids)}
    unknown = [str(name) for name in target if str(name) not in place]
    if unknown:
        raise DataError(
            f"the target names query {unknown[0]!r}, which has no scores ({len(unknown)} such ids).",
            fix="name queries that were scored.",
        )
    return np.array([place[str(name)] for name in target])


def _reason(scores: Scores, row: int, weight: float, rank: int, columns: np.ndarray) -> str:
    error = ""
    if scores.uncertainty is not None and len(columns) == len(scores.query_ids):
        error = f" (standard error {scores.uncertainty.examples[row]:.2g})"
    queries = "query" if len(columns) == 1 else "queries"
    return (
        f"datamodel weight {weight:+.4g} {scores.unit}{error} for {len(columns)} target {queries}; "
        f"rank {rank} of {len(scores.train_ids)}"
    )
