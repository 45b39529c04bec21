"""What training examples, or groups of them, are worth."""

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from steelyard import score
from steelyard.errors import CapabilityError, SettingError
from steelyard.flow.problems import problem_of
from steelyard.flow.scoring import attribute
from steelyard.problem import Problem
from steelyard.records import Scores, Uncertainty
from steelyard.run import Run

if TYPE_CHECKING:
    import polars as pl

    from steelyard.score.driver import Method


def value(  # noqa: PLR0913 - those of attribute, and what is valued by what
    model: Any,
    train: Any = None,
    query: Any = None,
    *,
    method: "str | Method" = "knn_shapley",
    groups: str = "",
    utility: str | None = None,
    seed: int = 0,
    run: Run | None = None,
) -> Scores:
    """What each training example is worth: its mean score over all queries.

    Arguments are those of :func:`attribute`, and:

    Args:
        model: As for ``attribute``.
        train: As for ``attribute``.
        query: As for ``attribute``.
        method: As for ``attribute``.
        groups: Value the groups that this column of the training examples names, instead of single examples.
        utility: Measure the queries by this, such as ``"accuracy"``, instead of the learner's own measurement.
        seed: As for ``attribute``.
        run: As for ``attribute``.

    Returns:
        Per-example scores in the method's unit, averaged over the queries; low is suspect. Intervals are in
        :func:`value_table`.
    """
    problem = with_utility(problem_of(model, train, query, seed=seed), utility)
    scores = attribute(problem, method=grouped(method, groups), run=run)
    values = worth(scores)
    if scores.axis == "example":
        return scores
    known = scores.uncertainty
    if known is not None:
        known = Uncertainty(known.examples[:, None], known.examples, known.freedom, known.over)
    return replace(
        scores,
        values=values[:, None],
        query_ids=np.array(["all queries"]),
        axis="example",
        suspect="low",
        uncertainty=known,
    )


def with_utility(problem: Problem, utility: str | None) -> Problem:
    """The same problem with its queries measured by something else; the problem itself if None.

    Raises:
        CapabilityError: If the learner has one measurement only.
        SettingError: If it has none of that name.
    """
    if utility is None:
        return problem
    return Problem(problem.learner, problem.train, problem.query, seed=problem.seed, utility=utility)


def grouped(method: "str | Method", groups: str) -> "str | Method":
    """The method with groups of examples as players; the method itself if there are none.

    Raises:
        SettingError: If the method values examples only.
    """
    if not groups:
        return method
    chosen: Any = score.by_name(method) if isinstance(method, str) else method
    if not _groups(type(chosen)):
        able = [name for name in score.METHODS if _groups(score.method_class(name))]
        raise SettingError(
            f"{type(chosen).__name__} values single examples, not groups by {groups!r}.",
            fix=f"use one of {', '.join(able)}.",
        )
    return replace(chosen, groups=groups)


def _groups(kind: Any) -> bool:
    # GroupInfluence has a setting of that name too: a mapping, which Python code gives.
    return is_dataclass(kind) and any(item.name == "groups" and item.type is str for item in fields(kind))


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

    Where scores come with standard errors, the interval is Student's, and says how the value may change with other
    random fits (for ``lava``: with other queries). Else it is that of a mean over queries drawn at random from a
    population: normal, from the spread over the queries. It says how the value may change with other queries, not with
    another training.

    Args:
        scores: Pair scores, or per-example scores; of the latter without standard errors, or of a single query, there
            is no interval.
        level: Confidence level of the interval.

    Returns:
        Columns ``train_id``, ``value``, ``low``, ``high`` in the scores' unit; bounds are null where unknown.
    """
    import polars as pl

    mean = worth(scores)
    half = _half_width(scores, level)
    table = pl.DataFrame(
        {"train_id": scores.train_ids, "value": mean, "low": mean - half, "high": mean + half}
    )
    bounds = pl.col("low", "high")
    return table.with_columns(bounds.fill_nan(None)).sort("value", maintain_order=True)


def interval_meaning(scores: Scores) -> str:
    """What the interval of :func:`value_table` is about, in a few words; empty if there is none."""
    if scores.uncertainty is not None:
        drawn = np.isfinite(scores.uncertainty.freedom)
        return scores.uncertainty.over if drawn else "nothing (no fit was drawn)"
    return "other queries" if _over_queries(scores) else ""


def _half_width(scores: Scores, level: float) -> Float[np.ndarray, " train"]:
    """Half the interval; NaN where it is unknown."""
    from scipy.stats import norm

    if scores.uncertainty is not None:
        return scores.uncertainty.factor(level) * scores.uncertainty.examples
    if not _over_queries(scores):
        return np.full(len(scores.train_ids), np.nan)
    spread = np.concatenate([block.std(axis=1, ddof=1, dtype=np.float64) for _, block in scores.blocks()])
    return norm.ppf(0.5 + level / 2) * spread / np.sqrt(len(scores.query_ids))


def _over_queries(scores: Scores) -> bool:
    return scores.axis == "pair" and scores.unit != "rank" and len(scores.query_ids) > 1
