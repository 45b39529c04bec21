"""Influence functions (Koh & Liang 2017, arXiv:1703.04730) with exact, K-FAC and EK-FAC curvature (Grosse et al. 2023).

All three predict the change of a query's measurement when a training example is removed:
``g_q^T (H + damping)^{-1} w_i g_i`` with H the curvature of the *summed* weighted training loss plus its penalty.
Deviation from Koh & Liang eq. 2: the factor -1/n is -1, because the loss is summed; and the sign is that of
removal, so positive means that the example helps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float
from scipy.linalg.lapack import dpocon  # pyright: ignore[reportAttributeAccessIssue] - compiled, without stubs

from steelyard.collect.gradients import (
    Fitted,
    Widening,
    dense_gradients,
    exact_curvature,
    open_gradients,
    present_examples,
    queries_within_memory,
    training_products,
)
from steelyard.errors import NumericsError, SettingError
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs

_INSTEAD = "leave_one_out or knn_shapley"
_WELL_CONDITIONED = 1e-8
Fisher = Literal["auto", "exact", "sampled", "empirical"]


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
        """Curvature and both sides."""
        return Cost(gradients=2 * len(problem.train) + len(problem.query))

    def queries_at_once(self, problem: Problem) -> int:
        """As many as keep the query side near 1 GiB."""
        return queries_within_memory(problem)

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Inverse curvature times query gradients, by Cholesky.

        Raises:
            NumericsError: If the damped curvature is not positive definite.
        """
        fitted = open_gradients(problem, run, method="GaussNewton", instead=_INSTEAD)
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


def factorise(
    hessian: Float[np.ndarray, "param param"], damping: float | int | str, examples: int, *, optimal: bool
) -> tuple[tuple[np.ndarray, bool], float, str]:
    """Cholesky factor of ``hessian + examples * damping * I``, the damping that was used, and why.

    Args:
        hessian: Curvature of the summed objective.
        damping: ``"auto"`` or a number, for the mean curvature.
        examples: How many the objective is a mean over.
        optimal: Whether the model is at the optimum of its objective, as closed forms are.

    Raises:
        SettingError: If the damping is negative or an unknown word.
        NumericsError: If the matrix is not positive definite.
    """
    if damping == "auto":
        value = 0.1 * float(np.trace(hessian)) / len(hessian) / examples
        reason = "0.1 x mean eigenvalue, because a network is rarely at its optimum"
        if optimal:
            reciprocal = _reciprocal_condition(hessian)
            if reciprocal > _WELL_CONDITIONED:
                value, reason = 0.0, f"well conditioned (reciprocal condition number {reciprocal:.1e})"
            else:
                reason = f"0.1 x mean eigenvalue, because the curvature is ill conditioned ({reciprocal:.1e})"
    elif isinstance(damping, str) or damping < 0:
        raise SettingError(f"damping={damping!r}", fix='give "auto" or a number that is not negative.')
    else:
        value, reason = float(damping), "as given"
    damped = hessian + examples * value * np.eye(len(hessian))
    try:
        return scipy.linalg.cho_factor(damped, lower=True, check_finite=False), value, reason
    except np.linalg.LinAlgError as error:
        raise NumericsError(
            f"the curvature with damping {value:g} is not positive definite.",
            fix='use damping="auto" or a larger number.',
        ) from error


def _reciprocal_condition(matrix: Float[np.ndarray, "param param"]) -> float:
    """Estimate in the 1-norm; 0 where there is no Cholesky factor."""
    try:
        factor = scipy.linalg.cho_factor(matrix, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 0.0
    return float(dpocon(factor[0], float(np.abs(matrix).sum(axis=0).max()), uplo="L")[0])


@dataclass(frozen=True)
class KFAC:
    """Influence with Kronecker-factored curvature.

    Args:
        damping: Added to every eigenvalue of the *mean* curvature; ``"auto"`` is a tenth of the mean eigenvalue
            of each block, from the factors alone.
        fisher: ``"exact"`` (one backward pass per output), ``"sampled"`` labels, the ``"empirical"`` labels;
            ``"auto"`` is the first of these that the loss offers, exact up to 16 outputs.

    Source: Martens & Grosse (2015); Grosse et al. (2023), section 3.2.
    """

    damping: float | int | Literal["auto"] = "auto"
    fisher: Fisher = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Martens & Grosse 2015, Optimizing Neural Networks with Kronecker-factored Approximate Curvature",
        needs="gradients of a network's layers",
        cost="2n + q gradients, one eigendecomposition per layer and side",
        good_for="when the second pass of ekfac is too dear",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """The measurement's."""
        return problem.learner.measurement.unit

    def predict(self, problem: Problem) -> Cost:
        """One pass for the factors, one for the scores."""
        return Cost(gradients=2 * len(problem.train) + len(problem.query))

    def queries_at_once(self, problem: Problem) -> int:
        """As many as keep the query side near 1 GiB."""
        return queries_within_memory(problem)

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Factors, and the query side with their inverse applied."""
        return _precondition(problem, run, "kfac", fisher=self.fisher, damping=self.damping)

    def resolved(self, state: Preconditioned) -> Mapping[str, Any]:
        """Fisher and damping, with reasons."""
        return state.resolved

    def score(self, problem: Problem, state: Preconditioned, rows: slice) -> Float[np.ndarray, "row query"]:
        """Influence of these rows."""
        return training_products(problem, state.fitted, state.side, rows)


@dataclass(frozen=True)
class EKFAC:
    """Influence with eigenvalue-corrected Kronecker-factored curvature: the default for networks.

    Args:
        damping: Added to every eigenvalue of the *mean* curvature; ``"auto"`` is a tenth of the mean eigenvalue
            of each block, from the factors alone.
        fisher: ``"exact"`` (one backward pass per output), ``"sampled"`` labels, the ``"empirical"`` labels;
            ``"auto"`` is the first of these that the loss offers, exact up to 16 outputs.

    Source: Grosse et al. (2023), "Studying Large Language Model Generalization with Influence Functions", eq. 16
    to 20; George et al. (2018), eq. 9.
    """

    damping: float | int | Literal["auto"] = "auto"
    fisher: Fisher = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Grosse et al. 2023, Studying Large Language Model Generalization with Influence Functions",
        needs="gradients of a network's layers",
        cost="3n + q gradients, one eigendecomposition per layer and side",
        good_for="the default for networks: closest to the exact curvature that scales",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """The measurement's."""
        return problem.learner.measurement.unit

    def predict(self, problem: Problem) -> Cost:
        """Two passes for the factors, one for the scores."""
        return Cost(gradients=3 * len(problem.train) + len(problem.query))

    def queries_at_once(self, problem: Problem) -> int:
        """As many as keep the query side near 1 GiB."""
        return queries_within_memory(problem)

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Factors, corrected eigenvalues, and the query side with their inverse applied."""
        return _precondition(problem, run, "ekfac", fisher=self.fisher, damping=self.damping)

    def resolved(self, state: Preconditioned) -> Mapping[str, Any]:
        """Fisher and damping, with reasons."""
        return state.resolved

    def score(self, problem: Problem, state: Preconditioned, rows: slice) -> Float[np.ndarray, "row query"]:
        """Influence of these rows."""
        return training_products(problem, state.fitted, state.side, rows)


def _precondition(
    problem: Problem,
    run: Run,
    kind: Literal["kfac", "ekfac"],
    *,
    fisher: Fisher,
    damping: float | int | Literal["auto"],
) -> Preconditioned:
    fitted = open_gradients(problem, run, method=kind.upper(), instead=_INSTEAD)
    # Imported here: linear models have gradients too, without torch.
    from steelyard.collect.curvature import kronecker_metric

    metric = kronecker_metric(problem, fitted, run, kind=kind, fisher=fisher, damping=damping)
    run.spend(gradients=len(problem.query))
    return Preconditioned(fitted, fitted.gradients.prepare(problem.query, metric.metric), metric.resolved)
