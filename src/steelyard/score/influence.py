"""What all influence functions share (Koh & Liang 2017, arXiv:1703.04730); the methods are one file per curvature.

All predict the change of a query's measurement when a training example is removed:
``g_q^T (H + damping)^{-1} w_i g_i`` with H the curvature of the *summed* weighted training loss plus its penalty.
Deviation from Koh & Liang eq. 2: the factor -1/n is -1, because the loss is summed; and the sign is that of
removal, so positive means that the example helps.

They differ in the inverse: exact (``gauss_newton.py``), Kronecker-factored (``kronecker.py``), by an iterative solver
or of low rank (``solvers.py``), both (``refined.py``), or swapped with the mean (``datainf.py``). All apply it to the
query side once, so that a training example costs one gradient; what follows are the functions that then become their
methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect.gradients import (
    Fitted,
    open_gradients,
    queries_within_memory,
    split_products,
    training_products,
)
from steelyard.gradients.parts import By, Split
from steelyard.problem import Problem
from steelyard.records import Scores
from steelyard.run import Run
from steelyard.score.driver import score_pairs

INSTEAD = "leave_one_out or knn_shapley"
Fisher = Literal["auto", "exact", "sampled", "empirical"]
Damping = float | int | Literal["auto", "heldout"]


@dataclass(frozen=True, eq=False)
class Preconditioned:
    """A model's gradients, the query side with the inverse curvature applied, and what was resolved.

    Attributes:
        fitted: The model and its gradients.
        side: The queries, or their rows ``[query, param]`` for exact curvature.
        resolved: What every ``"auto"`` became.
    """

    fitted: Fitted
    side: Any
    resolved: Mapping[str, Any]


def score_all(self: Any, problem: Problem, run: Run | None = None) -> Scores:
    """Score every training example for every query."""
    return score_pairs(self, problem, run)


def whole_queries(method: object, problem: Problem) -> int:
    """How many queries' whole gradients keep the query side near 1 GiB."""
    return queries_within_memory(problem)


def measured_unit(method: object, problem: Problem) -> str:
    """That of the measurement."""
    return problem.learner.measurement.unit


def as_resolved(method: object, state: Preconditioned) -> Mapping[str, Any]:
    """What every ``"auto"`` became, with reasons."""
    return state.resolved


def row_influence(
    method: object, problem: Problem, state: Preconditioned, rows: slice
) -> Float[np.ndarray, "row query"]:
    """Influence of these rows: products of their gradients with the prepared query side."""
    return training_products(problem, state.fitted, state.side, rows)


def row_split(
    method: object, problem: Problem, state: Preconditioned, rows: Int[np.ndarray, " row"], by: By
) -> Split:
    """Influence of these rows part by part."""
    return split_products(state.fitted, problem.train.take(rows), state.side, by)


def with_kronecker_metric(
    problem: Problem, run: Run, kind: Any, *, fisher: Fisher, damping: Damping, rank: int | None = None
) -> Preconditioned:
    """The query side with an inverse Kronecker-factored curvature applied.

    Args:
        problem: Learner, training examples, queries.
        run: Where factors are kept.
        kind: As in ``collect.curvature``.
        fisher: Which gradients.
        damping: Added to the eigenvalues.
        rank: Singular vectors kept per query and block; all of them if None.
    """
    fitted = open_gradients(problem, run, method=kind.upper(), instead=INSTEAD)
    # Imported here: linear models have gradients too, without torch.
    from steelyard.collect.curvature import kronecker_metric
    from steelyard.gradients.engine import TorchGradients

    metric = kronecker_metric(problem, fitted, run, kind=kind, fisher=fisher, damping=damping)
    run.spend(gradients=len(problem.query))
    side = cast(TorchGradients, fitted.gradients).prepare(problem.query, metric.metric, rank=rank)
    if rank is None:
        return Preconditioned(fitted, side, metric.resolved)
    lost = {"rank": rank, "rank_lost_mean": float(side.lost.mean()), "rank_lost_most": float(side.lost.max())}
    return Preconditioned(fitted, side, {**metric.resolved, **lost})
