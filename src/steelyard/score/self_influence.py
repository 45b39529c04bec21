"""Self-influence: how much worse an example's own loss becomes when it is removed (Koh & Liang 2017, section 5.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float

from steelyard.collect.exact import factorise
from steelyard.collect.gradients import (
    Fitted,
    Widening,
    dense_gradients,
    exact_curvature,
    open_gradients,
    present_examples,
)
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_examples

Curvature = Literal["auto", "ekfac", "kfac", "exact", "identity"]


@dataclass(frozen=True, eq=False)
class Curved:
    """A model's gradients and the curvature to measure them by.

    Attributes:
        fitted: The model and its gradients.
        metric: Kronecker-factored inverse curvature, or None.
        cholesky: Lower Cholesky factor of the exact curvature, or None.
        resolved: What every ``"auto"`` became.
    """

    fitted: Fitted
    metric: Any
    cholesky: np.ndarray | None
    resolved: Mapping[str, Any]


@dataclass(frozen=True)
class SelfInfluence:
    """``w_i g_i^T (H + damping)^{-1} g_i``: high for mislabelled, atypical and memorised examples.

    In nats for a loss in nats, whatever the query measurement is. With ``curvature="identity"`` it is the
    squared length of the gradient, and ``unit="rank"``.

    Args:
        curvature: H. ``"auto"`` is EK-FAC for networks and the exact Hessian for linear models.
        damping: As in ``EKFAC`` and ``GaussNewton``.

    Source: Koh & Liang (2017), section 5.4; with the identity, Pruthi et al. (2020), section 4.1.
    """

    curvature: Curvature = "auto"
    damping: float | int | Literal["auto"] = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Koh & Liang 2017, Understanding Black-box Predictions via Influence Functions",
        needs="gradients",
        cost="n gradients; 3n with ekfac",
        good_for="finding mislabelled and memorised examples without a query set",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example; one column, high values are suspect."""
        return score_examples(self, problem, run, about="self", suspect="high")

    def unit(self, problem: Problem) -> str:
        """That of the training loss."""
        return "rank" if self.curvature == "identity" else "nats"

    def predict(self, problem: Problem) -> Cost:
        """Factors and scores."""
        return Cost(gradients=(1 if self.curvature == "identity" else 3) * len(problem.train))

    def prepare(self, problem: Problem, run: Run) -> Curved:
        """The model's gradients and the inverse curvature."""
        fitted = open_gradients(problem, run, method="SelfInfluence", instead="loss or knn_shapley")
        # Only networks come in narrow number types; linear models have notes as well.
        network = isinstance(fitted.gradients, Widening)
        curvature = self.curvature if self.curvature != "auto" else "ekfac" if network else "exact"
        if curvature == "identity":
            return Curved(fitted, None, None, {"curvature": curvature})
        if curvature == "exact":
            hessian = exact_curvature(problem, fitted, run, method="SelfInfluence")
            factor, damping, reason = factorise(
                hessian, self.damping, len(present_examples(problem)), optimal=not network
            )
            resolved = {"curvature": curvature, "damping": damping, "damping_reason": reason}
            return Curved(fitted, None, factor[0], resolved)
        # Imported here: linear models have gradients too, without torch.
        from steelyard.collect.curvature import kronecker_metric

        metric = kronecker_metric(problem, fitted, run, kind=curvature, fisher="auto", damping=self.damping)
        return Curved(fitted, metric.metric, None, {"curvature": curvature, **metric.resolved})

    def resolved(self, state: Curved) -> Mapping[str, Any]:
        """Curvature and damping, with reasons."""
        return state.resolved

    def score(self, problem: Problem, state: Curved, rows: slice) -> Float[np.ndarray, "row 1"]:
        """Self-influence of these rows."""
        part = problem.train.take(rows)
        state.fitted.run.spend(gradients=len(part))
        if state.cholesky is None:
            values = state.fitted.gradients.self_products(part, state.metric)
        else:
            gradients = dense_gradients(state.fitted, part, "loss")
            half = scipy.linalg.solve_triangular(state.cholesky, gradients.T, lower=True, check_finite=False)
            values = np.square(half).sum(axis=0)
        return (values * part.weights())[:, None]
