r"""Representer points: predictions as sums over training examples (Yeh et al. 2018; Sui et al. 2021).

Sources: Yeh, Kim, Yen & Ravikumar (2018), "Representer Point Selection for Explaining Deep Neural Networks",
github.com/chihkuanyeh/Representer_Point_Selection; Sui, Wu & Sanner (2021), "Representer Point Selection via Local
Jacobian Expansion for Post-hoc Classifier Explanation of Deep Neural Networks and Ensemble Models",
github.com/echoyi/RPS_LJE.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float

from steelyard.collect.last_layer import (
    PRE_ACTIVATION,
    PREDICTION,
    Asked,
    Read,
    Targets,
    dense,
    fit_last_layer,
    products,
    read_last_layer,
)
from steelyard.errors import CapabilityError, NumericsError, SettingError
from steelyard.learners.sklearn_objectives import hessian
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs

_FORWARD = 1 / 3
_CLOSE = 1e-6


@dataclass(frozen=True, eq=False)
class Decomposed:
    """A last layer as a sum over training examples.

    Attributes:
        read: The layer and both sides.
        alpha: What every training example gives to each output, before it is multiplied with similarity.
        train: ``float["train column"]`` Columns of the training side that are decomposed.
        query: ``float["query column"]`` The same of the queries.
        facts: For the record.
    """

    read: Read
    alpha: Float[np.ndarray, "train output"]
    train: Any
    query: Any
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class RPS:
    r"""The part of a query's pre-activation that a training example gives: :math:`\alpha_{iy} f_i^T f_q`.

    A last layer that minimises loss plus an l2 penalty is a weighted sum of what it reads from the training examples,
    :math:`\Theta = \sum_i \alpha_i f_i^T` with :math:`\alpha_i = -w_i \ell_i' / \text{penalty}`. One value is what
    the sum for the query loses without the example's term, in logits: positive supports the query's own class. The
    values of a query add up to its pre-activation (two classes with one output: its log-odds; a regressor: its
    prediction), less an intercept that is not penalised. Nothing is predicted about retraining.

    A network's last layer is first fitted to the model's own probabilities with the penalty, from its weights on,
    as in the paper; its record says how far that moves the queries. Linear models keep their own penalty and labels.

    Cost: a forward pass per example and query; a Newton fit of the last layer; then one product of features.

    Args:
        asked: Explain each query's ``"label"``, or the class that is ``"predicted"``.
        targets: What the layer is fitted to: the ``"model"``'s own probabilities, or ``"labels"``. ``"auto"``: the
            model's for networks, labels for linear models.
        penalty: On the squared weights, in the mean loss; the official code's is 0.003. Linear models have their own.

    Deviations: the layer is fitted by a trust-region Newton method in float64 instead of gradient descent with line
    search; examples have weights; scikit-learn's intercept that is not penalised is left as it is.

    Source: Yeh et al. (2018), theorem 3.1 and section 3.2.
    """

    asked: Asked = "label"
    targets: Targets = "auto"
    penalty: float = 0.003
    card: ClassVar[MethodCard] = MethodCard(
        paper="Yeh et al. 2018, Representer Point Selection for Explaining Deep Neural Networks",
        needs="a last linear layer",
        cost="(n + q) forward passes, a fit of the last layer",
        good_for="taking a prediction apart exactly, example by example; not for what removal does",
    )

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise SettingError(f"RPS: penalty={self.penalty}.", fix="give one above 0, such as 0.003.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Contribution of every training example to every query, in logits."""
        return named(score_pairs(self, problem, run))

    def unit(self, problem: Problem) -> str:
        """That of the outputs of a classifier; scores of a regressor are in units of its target."""
        return PRE_ACTIVATION.unit

    def predict(self, problem: Problem) -> Cost:
        """Forward passes."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def prepare(self, problem: Problem, run: Run) -> Decomposed:
        """The last layer at its optimum, as a sum."""
        read = read_last_layer(problem, run, method="RPS", asked=self.asked)
        _refuse_l1(read, method="RPS")
        best = fit_last_layer(read, problem.train, targets=self.targets, penalty=self.penalty)
        penalised = (best.model.penalty > 0).all(axis=0)
        alpha = -best.slopes / best.model.penalty[:, penalised][:, :1].T
        train, query = read.train[:, penalised], read.query[:, penalised]
        whole = (np.asarray(read.query @ best.model.weights.T) * read.asked).sum(axis=1)
        given = (np.asarray(read.query @ read.layer.model.weights.T) * read.asked).sum(axis=1)
        left = (np.asarray(read.query[:, ~penalised] @ best.model.weights[:, ~penalised].T) * read.asked).sum(
            axis=1
        )
        total = (np.asarray(query @ (train.T @ alpha)) * read.asked).sum(axis=1)
        gap, moved = float(np.abs(total + left - whole).max()), float(np.abs(whole - given).max())
        scale = float(np.abs(whole).max())
        if gap > _CLOSE * max(1.0, scale):
            run.note(
                f"RPS: the last layer is not quite at its optimum; contributions miss predictions by {gap:.1e}"
            )
        facts = {
            "explains": read.measurement.name,
            "targets": self.targets if self.targets != "auto" else "labels" if read.layer.whole else "model",
            "penalty": float(best.model.penalty.max()),
            "penalty_of": "the model's own" if read.layer.whole else "as set",
            "largest_gap_between_sum_and_prediction": gap,
            "largest_move_of_a_query_by_the_fit": moved,
            "not_decomposed": "intercept" if not penalised.all() else "nothing",
        }
        return Decomposed(read, alpha, train, query, facts)

    def resolved(self, state: Decomposed) -> Mapping[str, Any]:
        """Targets, penalty, how exact the sum is."""
        return state.facts

    def score(self, problem: Problem, state: Decomposed, rows: slice) -> Float[np.ndarray, "row query"]:
        """Contributions of these rows."""
        return (state.alpha[rows] @ state.read.asked.T) * products(state.train[rows], state.query)


@dataclass(frozen=True, eq=False)
class Expanded:
    """A Newton step back to the optimum, as a sum over training examples.

    Attributes:
        read: The layer and both sides.
        slopes: Share of each training example in the mean of the losses' derivatives.
        sides: ``float["query output*column"]`` Inverse curvature times each query's gradient.
        share: ``float["query"]`` What all examples give alike.
        weights: Share of every training example in the mean.
        facts: For the record.
    """

    read: Read
    slopes: Float[np.ndarray, "train output"]
    sides: Float[np.ndarray, "query param"]
    share: Float[np.ndarray, " query"]
    weights: Float[np.ndarray, " train"]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class RPSLJE:
    r"""Representers without a penalty: each example's part in a Newton step back to the given model.

    From the given last layer a gradient *ascent* step leads to :math:`\Theta^\dagger`; there the example gives
    :math:`w_i (\Theta^\dagger - H^{-1} g_i)` of the mean, times the query's features. One value is that product
    for the query's own class, in logits: positive supports it. The values of a query add up to its pre-activation
    after the Newton step, which the record compares with the given one. The part in :math:`\Theta^\dagger` is the
    same for all examples; they differ by their influence on the pre-activation.

    Cost: a forward pass per example and query; the last layer's curvature, parameters² numbers.

    Args:
        asked: Explain each query's ``"label"``, or the class that is ``"predicted"``.
        step: Length of the ascent step, as a learning rate on the mean loss.
        damping: Added to the curvature of the mean loss. ``"auto"``: 0.001 of its mean diagonal for networks, 0
            for linear models with a penalty.

    Deviations: several classes (the official code has one sigmoid); curvature of dead features is damped instead of
    inverted; a linear model's own penalty counts into gradient and curvature; examples have weights.

    Source: Sui et al. (2021), section 3; the official code.
    """

    asked: Asked = "label"
    step: float = 0.01
    damping: float | int | Literal["auto"] = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Sui, Wu & Sanner 2021, Representer Point Selection via Local Jacobian Expansion",
        needs="a last linear layer",
        cost="(n + q) forward passes, curvature of the last layer",
        good_for="representers of the model as it is, that tell look-alikes within a class apart",
    )

    def __post_init__(self) -> None:
        if self.step < 0 or (self.damping != "auto" and self.damping < 0):
            raise SettingError(f"RPSLJE: step={self.step}, damping={self.damping}.", fix="give none below 0.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Contribution of every training example to every query, in logits."""
        return named(score_pairs(self, problem, run))

    def unit(self, problem: Problem) -> str:
        """That of the outputs of a classifier; scores of a regressor are in units of its target."""
        return PRE_ACTIVATION.unit

    def predict(self, problem: Problem) -> Cost:
        """Forward passes."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def prepare(self, problem: Problem, run: Run) -> Expanded:
        """The ascended layer, its curvature, and the queries against it.

        Raises:
            NumericsError: If the curvature has no inverse.
        """
        read = read_last_layer(problem, run, method="RPSLJE", asked=self.asked)
        _refuse_l1(read, method="RPSLJE")
        given, labels = read.layer.model, problem.train.labels()
        weights = problem.train.weights()
        total = weights.sum()
        share = weights / total
        slopes = given.slopes(read.train, labels, "loss", "loss") * share[:, None]
        pull = given.penalty * given.weights / total
        away = replace(
            given,
            weights=given.weights + self.step * (np.asarray(read.train.T @ slopes).T + pull),
        )
        curvature = hessian(away, read.train[:, : _width(given)], labels, weights) / total
        damping = self._damping(read, curvature)
        curvature[np.diag_indices_from(curvature)] += damping
        columns = dense(read.query)
        gradients = (read.asked[:, :, None] * columns[:, None, :]).reshape(len(columns), -1)
        try:
            factor = scipy.linalg.cho_factor(curvature, lower=True)
        except scipy.linalg.LinAlgError as error:
            raise NumericsError(
                "RPSLJE: the curvature of the last layer has no inverse.",
                fix="give damping=, such as 0.001, or use rps.",
            ) from error
        sides = scipy.linalg.cho_solve(factor, gradients.T).T
        slopes = away.slopes(read.train, labels, "loss", "loss") * share[:, None]
        pull = (away.penalty * away.weights / total).ravel()
        common = gradients @ away.weights.ravel() - sides @ pull
        landed = common - sides @ np.asarray(read.train.T @ slopes).T.ravel()
        moved = float(np.abs(landed - gradients @ given.weights.ravel()).max())
        facts = {
            "explains": read.measurement.name,
            "damping": damping,
            "largest_gap_to_the_given_model": moved,
        }
        return Expanded(read, slopes, sides, common, share, facts)

    def resolved(self, state: Expanded) -> Mapping[str, Any]:
        """Damping, and how far the sums are from the given model."""
        return state.facts

    def score(self, problem: Problem, state: Expanded, rows: slice) -> Float[np.ndarray, "row query"]:
        """Contributions of these rows."""
        values = state.weights[rows, None] * state.share[None, :]
        for output, side in enumerate(np.split(state.sides, state.slopes.shape[1], axis=1)):
            values = values - state.slopes[rows, output, None] * products(state.read.train[rows], side)
        return values

    def _damping(self, read: Read, curvature: np.ndarray) -> float:
        if self.damping != "auto":
            return float(self.damping)
        penalised = read.layer.whole and bool((read.layer.model.penalty > 0).any())
        return 0.0 if penalised else 1e-3 * float(np.diag(curvature).mean())


def _refuse_l1(read: Read, *, method: str) -> None:
    """CapabilityError where an l1 penalty makes the sum another one."""
    if read.layer.l1 is not None:
        raise CapabilityError(
            f"{method} is for l2 penalties, and this model has an l1 penalty.",
            fix="use high_dim_representers.",
        )


def _width(model: Any) -> int:
    """Columns without the constant, which the Hessian adds itself."""
    return model.weights.shape[1] - (model.constant is not None)


def named(scores: Scores) -> Scores:
    """The scores with what they decompose as their measurement."""
    explained = PRE_ACTIVATION if scores.provenance.resolved["explains"] == "pre-activation" else PREDICTION
    return replace(scores, measurement=explained, unit=explained.unit)
