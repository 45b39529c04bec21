"""What training examples are worth, one by one."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from steelyard.errors import CapabilityError
from steelyard.flow.scoring import attribute
from steelyard.records import Scores
from steelyard.run import Run

if TYPE_CHECKING:
    import polars as pl

    from steelyard.score.driver import Method


def value(
    model: Any,
    train: Any = None,
    query: Any = None,
    *,
    method: "str | Method" = "knn_shapley",
    seed: int = 0,
    run: Run | None = None,
) -> Scores:
    """What each training example is worth: its mean score over all queries.

    Arguments are those of :func:`attribute`.

    Returns:
        Per-example scores in the method's unit, averaged over the queries; low is suspect. The interval over
        queries is in :func:`value_table`.
    """
    scores = attribute(model, train, query, method=method, seed=seed, run=run)
    values = worth(scores)
    if scores.axis == "example":
        return scores
    return replace(
        scores,
        values=values[:, None],
        query_ids=np.array(["all queries"]),
        axis="example",
        suspect="low",
    )


def worth(scores: Scores) -> Float[np.ndarray, " train"]:
    """Mean score over the queries.

    Raises:
        CapabilityError: If the scores say how atypical an example is, not what it is worth.
    """
    if scores.suspect == "high":
        raise CapabilityError(
            f"{scores.name} says how atypical an example is, not what it is worth.",
            fix="use knn_shapley, ekfac, leave_one_out or another method that scores pairs.",
        )
    return scores.per_example()


def value_table(scores: Scores, *, level: float = 0.95) -> "pl.DataFrame":
    """One row per training example with its value and interval, lowest value first.

    The interval is that of a mean over queries drawn at random from a population: normal, from the spread
    over the queries. It says how the value may change with other queries, not with another training.

    Args:
        scores: Pair scores; of per-example scores, or of a single query, there is no interval.
        level: Confidence level of the interval.

    Returns:
        Columns ``train_id``, ``value``, ``low``, ``high`` in the scores' unit; bounds are null where unknown.
    """
    import polars as pl
    from scipy.stats import norm

    mean = worth(scores)
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    count = len(scores.query_ids)
    if scores.axis == "pair" and scores.unit != "rank" and count > 1:
        spread = np.concatenate([block.std(axis=1, ddof=1, dtype=np.float64) for _, block in scores.blocks()])
        half = norm.ppf(0.5 + level / 2) * spread / np.sqrt(count)
        low, high = mean - half, mean + half
    unknown = [None] * len(mean)
    table = pl.DataFrame(
        {
            "train_id": scores.train_ids,
            "value": mean,
            "low": unknown if low is None else low,
            "high": unknown if high is None else high,
        },
        schema_overrides={"low": pl.Float64, "high": pl.Float64},
    )
    return table.sort("value", maintain_order=True)
