"""Influence functions (Koh & Liang 2017, arXiv:1703.04730) with the exact curvature of a small model.

The prediction, its unit and its sign are those of ``influence.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float

from steelyard.collect.exact import factorise
from steelyard.collect.gradients import (
    Widening,
    dense_gradients,
    exact_curvature,
    open_gradients,
    present_examples,
    queries_within_memory,
)
from steelyard.collect.pace import multiplied
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs
from steelyard.score.influence import INSTEAD, Preconditioned


@dataclass(frozen=True)
class GaussNewton:
    """Influence with the exact curvature of a small model, in float64.

    The curvature is the Hessian for linear, ridge and logistic regression and the Gauss-Newton matrix for
    networks.

    Args:
        damping: Added to every eigenvalue of the *mean* curvature. ``"auto"``: none for linear models in closed
            form whose curvature is well conditioned (reciprocal condition number above 1e-8, as with a
            penalty); else a tenth of the mean eigenvalue, because a network is rarely trained to its optimum,
            where alone undamped influence means something.

    Source: Koh & Liang (2017), section 2.1, eq. 2; Schraudolph (2002), eq. 5, for the Gauss-Newton matrix.
    """

    damping: float | int | Literal["auto"] = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Koh & Liang 2017, Understanding Black-box Predictions via Influence Functions",
        needs="gradients, exact curvature (up to 20,000 parameters)",
        cost="n x outputs gradients, n p^2 + p^3/3 multiplications",
        good_for="linear models, where it is right up to second order, and small networks",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """The measurement's."""
        return problem.learner.measurement.unit

    def predict(self, problem: Problem) -> Cost:
        """Curvature and both sides; the matrix, filled and factorised."""
        gradients = 2 * len(problem.train) + len(problem.query)
        side = float(problem.learner.settings().get("parameters") or 0)
        # One row per example and output, of which there are as many as classes; half of each symmetric product.
        rows = len(problem.train) * _outputs(problem)
        return Cost(gradients=gradients, seconds=multiplied(rows * side**2 / 2 + side**3 / 6))

    def queries_at_once(self, problem: Problem) -> int:
        """As many as keep the query side near 1 GiB."""
        return queries_within_memory(problem)

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Inverse curvature times query gradients, by Cholesky.

        Raises:
            NumericsError: If the damped curvature is not positive definite.
        """
        fitted = open_gradients(problem, run, method="GaussNewton", instead=INSTEAD)
        hessian = exact_curvature(problem, fitted, run, method="GaussNewton")
        queries = dense_gradients(fitted, problem.query, "measurement")
        run.spend(gradients=len(problem.query))
        sign = 1.0 if problem.learner.measurement.lower_is_better else -1.0
        optimal = not isinstance(fitted.gradients, Widening)
        count = len(present_examples(problem))
        factor, damping, reason = factorise(hessian, self.damping, count, optimal=optimal)
        solved = scipy.linalg.cho_solve(factor, sign * queries.T, check_finite=False).T
        return Preconditioned(fitted, solved, {"damping": damping, "damping_reason": reason})

    def resolved(self, state: Preconditioned) -> Mapping[str, Any]:
        """What the damping became."""
        return state.resolved

    def score(self, problem: Problem, state: Preconditioned, rows: slice) -> Float[np.ndarray, "row query"]:
        """Influence of these rows, in float64."""
        part = problem.train.take(rows)
        state.fitted.run.spend(gradients=len(part))
        return (dense_gradients(state.fitted, part, "loss") * part.weights()[:, None]) @ state.side.T


def _outputs(problem: Problem) -> int:
    """As many as there are classes, which other labels than whole numbers and words do not have."""
    if problem.train.label is None:
        return 1
    labels = np.asarray(problem.train.labels())
    return len(np.unique(labels)) if labels.ndim == 1 and labels.dtype.kind not in "fc" else 1
