r"""Representers of regularised high-dimensional models (Tsai et al. 2023): l1, elastic net, nuclear norm.

Source: Tsai, Zhang, Chien, Yu, Hsieh & Ravikumar (2023), "Representer Point Selection for Explaining Regularized
High-dimensional Models", github.com/chepingt/High-dimensional-Representer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect.fits import explained
from steelyard.collect.last_layer import (
    PREDICTION,
    Asked,
    Read,
    fit_last_layer,
    products,
    read_last_layer,
)
from steelyard.errors import NumericsError
from steelyard.learners.factorisation import FactorisationFitted
from steelyard.problem import HasFactors, Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs
from steelyard.score.representers import named

_FORWARD = 1 / 3
_CLOSE = 1e-6


@dataclass(frozen=True, eq=False)
class Sparse:
    """A linear model as a sum over training examples.

    Attributes:
        read: The layer and both sides.
        slopes: Weighted derivative of every training loss in the outputs.
        metric: What every column's product of features is multiplied with; 0 for weights that are 0.
        facts: For the record.
    """

    read: Read
    slopes: Float[np.ndarray, "train output"]
    metric: Float[np.ndarray, "output column"]
    facts: Mapping[str, Any]

    def part(self, rows: slice) -> Float[np.ndarray, "row query"]:
        """Contributions of these rows."""
        total = 0.0
        for output, metric in enumerate(self.metric):
            kept = np.flatnonzero(metric)
            scaled = self.read.train[rows][:, kept] * metric[kept]
            similar = products(scaled, self.read.query[:, kept])
            total = total - self.slopes[rows, output, None] * similar * self.read.asked[None, :, output]
        return np.asarray(total)


@dataclass(frozen=True, eq=False)
class LowRank:
    """A matrix of ratings as a sum over known ones.

    Attributes:
        fitted: The factors.
        pull: Weighted derivative of every training example's loss in its prediction, over twice the penalty.
        train: User and item of every training example; -1 for one without ratings.
        query: User and item of every query.
        facts: For the record.
    """

    fitted: FactorisationFitted
    pull: Float[np.ndarray, " train"]
    train: tuple[Int[np.ndarray, " train"], Int[np.ndarray, " train"]]
    query: tuple[Int[np.ndarray, " query"], Int[np.ndarray, " query"]]
    facts: Mapping[str, Any]

    def part(self, rows: slice) -> Float[np.ndarray, "row query"]:
        """Contributions of these rows: ratings of the same item by similar users, of the same user to similar items."""
        total = np.zeros((len(self.pull[rows]), len(self.query[0])))
        factors = (self.fitted.left, self.fitted.right)
        for own, other in ((0, 1), (1, 0)):
            same = self.train[other][rows, None] == self.query[other][None, :]
            row, column = np.nonzero(same)
            left = factors[own][self.train[own][rows][row]]
            right = factors[own][self.query[own][column]]
            total[row, column] -= self.pull[rows][row] * np.einsum("pf,pf->p", left, right)
        return total


@dataclass(frozen=True)
class HighDimRepresenters:
    r"""The part of a prediction that a training example gives, for models with an l1 or nuclear-norm penalty.

    A linear model with l1 penalty λ (and l2 penalty μ): :math:`-w_i \ell_i' \sum_c d_c x_{ic} x_{qc}` with
    :math:`d_c = |\theta_c| / (\lambda + \mu |\theta_c|)`: features that the model leaves out count nothing. A
    low-rank matrix of ratings, :math:`U S V^T`: ratings of the query's item weigh :math:`-w_i \ell_i' / \lambda`
    times the product of both users' rows of :math:`U \sqrt S`, those by the query's user likewise with items; half
    of each, so that a rating that shares neither has no part. Values of a query add up to its pre-activation
    (log-odds, prediction), less an intercept or mean that is not penalised. Positive supports the query's own
    class, or raises the predicted rating. The record says how exact the sum is.

    Cost: a fit of the weights that are not 0, or the factors that the learner has; then products of features.

    Args:
        asked: For classifiers: explain each query's ``"label"``, or the class that is ``"predicted"``.

    Deviations: models are first brought to their optimum (the official code takes them as trained, so that its sums
    miss the prediction by a factor); the two sides of a matrix are averaged, where the paper shows them apart; the
    elastic net is included; examples have weights.

    Source: Tsai et al. (2023), sections 3 and 4.
    """

    asked: Asked = "label"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Tsai et al. 2023, Representer Point Selection for Explaining Regularized High-dimensional Models",
        needs="a linear model with an l1 penalty, or factors of users and items",
        cost="a fit of the last layer or the factors",
        good_for="which ratings made this recommendation; sparse models that use few features",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Contribution of every training example to every query, in logits or units of the target."""
        return named(score_pairs(self, problem, run))

    def unit(self, problem: Problem) -> str:
        """Units of the target; scores of a classifier are in logits."""
        return PREDICTION.unit

    def predict(self, problem: Problem) -> Cost:
        """Forward passes."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def prepare(self, problem: Problem, run: Run) -> Sparse | LowRank:
        """The model at its optimum, as a sum.

        Raises:
            CapabilityError: If the model has neither a last layer with a penalty nor factors.
        """
        if isinstance(problem.learner, HasFactors):
            return _low_rank(problem, run)
        read = read_last_layer(problem, run, method="HighDimRepresenters", asked=self.asked)
        best = fit_last_layer(read, problem.train, targets="auto", penalty=0.003)
        size, l2 = np.abs(best.model.weights), best.model.penalty
        if (best.l1 > 0).any() and np.sign(best.model.weights * read.layer.model.weights).min() < 0:
            raise NumericsError(
                "HighDimRepresenters: a weight changes its sign on the way to the optimum.",
                fix="lower the estimator's tol and raise its max_iter.",
            )
        bottom = np.where(best.l1 > 0, best.l1 + l2 * size, l2)
        metric = np.divide(
            np.where(best.l1 > 0, size, 1.0), bottom, out=np.zeros_like(size), where=bottom > 0
        )
        fixed = np.where(bottom > 0, 0.0, best.model.weights)
        state = Sparse(read, best.slopes, metric, {})
        whole = (np.asarray(read.query @ (best.model.weights - fixed).T) * read.asked).sum(axis=1)
        gap = float(np.abs(state.part(slice(None)).sum(axis=0) - whole).max())
        moved = np.asarray(read.query @ (best.model.weights - read.layer.model.weights).T) * read.asked
        return replace(
            state,
            facts={
                "explains": read.measurement.name,
                "weights_used": int((size > 0).sum()),
                "not_decomposed": "intercept" if fixed.any() else "nothing",
                "largest_move_of_a_query_by_the_fit": float(np.abs(moved.sum(axis=1)).max()),
                **_exactness(gap, whole, run),
            },
        )

    def resolved(self, state: Sparse | LowRank) -> Mapping[str, Any]:
        """How exact the sum is, and what is not in it."""
        return state.facts

    def score(self, problem: Problem, state: Sparse | LowRank, rows: slice) -> Float[np.ndarray, "row query"]:
        """Contributions of these rows."""
        return state.part(rows)


def _low_rank(problem: Problem, run: Run) -> LowRank:
    fitted: FactorisationFitted = explained(problem, run)
    ratings = problem.train.labels().astype(np.float64)
    pull = problem.learner.predict(fitted, problem.train) - ratings  # type: ignore[attr-defined]
    state = LowRank(
        fitted,
        problem.train.weights() * pull / (2.0 * fitted.penalty),
        fitted.rows(problem.train),
        fitted.rows(problem.query),
        {},
    )
    whole = problem.learner.predict(fitted, problem.query) - fitted.offset  # type: ignore[attr-defined]
    total = sum(state.part(slice(begin, begin + 4096)).sum(axis=0) for begin in range(0, len(ratings), 4096))
    gap = float(np.abs(total - whole).max())
    facts = {
        "explains": PREDICTION.name,
        "not_decomposed": f"mean rating {fitted.offset:.6g}",
        "rank": int(fitted.left.shape[1]),
        **_exactness(gap, whole, run),
    }
    return replace(state, facts=facts)


def _exactness(gap: float, whole: np.ndarray, run: Run) -> dict[str, float]:
    if gap > _CLOSE * max(1.0, float(np.abs(whole).max())):
        run.note(
            f"HighDimRepresenters: the model is not quite at its optimum; contributions miss predictions by {gap:.1e}"
        )
    return {"largest_gap_between_sum_and_prediction": gap}
