"""TRAK (Park et al. 2023, arXiv:2303.14186): a linear model on projected gradients of the model's margin."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float

from steelyard.collect.fits import ensemble, explained
from steelyard.collect.gradients import Fitted, gradients_at
from steelyard.errors import CapabilityError, SettingError
from steelyard.gradients.signs import Projection
from steelyard.problem import HasCheckpoints, HasGradients, HasPredictions, Problem, require
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs

_LARGEST_DENSE = 2**28
# Below this distance from certainty, float32 gradients of the loss carry no digits of the margin's.
_LEAST_DOUBT = 1e-5


@dataclass(frozen=True, eq=False)
class Member:
    """One model of the ensemble.

    Attributes:
        fitted: The model and its gradients.
        projection: Of its gradients; the seed differs from model to model.
        solved: ``[query, feature]`` ``(Phi^T Phi + lambda I)^{-1} phi_q``, signed by the measurement.
        doubt: ``[" train"]`` One minus the probability of the right label.
    """

    fitted: Fitted
    projection: Projection
    solved: np.ndarray
    doubt: np.ndarray


@dataclass(frozen=True, eq=False)
class Members:
    """The ensemble and what was resolved."""

    members: tuple[Member, ...]
    resolved: Mapping[str, Any]


@dataclass(frozen=True)
class TRAK:
    """``mean_m[phi_m(q) (Phi_m^T Phi_m)^{-1} phi_m(i)] · mean_m[1 - p_m(i)]`` with phi projected margin gradients.

    Margin gradients come from loss gradients by the chain rule: the margin ``log p / (1 - p)`` has gradient
    ``-grad loss / (1 - p)``. Without class probabilities (a callable loss, regression) the loss itself is the
    model output, and ``1 - p`` is 1.

    Args:
        models: How many models: more is better, the paper uses 1 to 100.
        over: ``"seeds"`` trains further models from scratch; ``"checkpoints"`` takes the last ``models`` of
            the explained model's training.
        dimension: Features per example: in all (dense), per layer at most (two-sided).
        projection: ``"dense"`` as in the paper, ``"two-sided"`` for large models.
        regularisation: Added to the eigenvalues of ``Phi^T Phi``; ``"auto"`` is a tenth of their mean, because
            the paper's 0 is singular as soon as there are fewer examples than features.
        seed: Of the projections.

    Deviations: the query side is the gradient of the problem's own measurement, by the chain rule equal to the
    paper's up to a factor per query when that is a function of the margin; ``1 - p`` below 1e-5 counts as 1e-5.

    Source: Park et al. (2023), "TRAK: Attributing Model Behavior at Scale", eq. 13 to 17.
    """

    models: int = 1
    over: Literal["seeds", "checkpoints"] = "seeds"
    dimension: int = 512
    projection: Literal["dense", "two-sided"] = "dense"
    regularisation: float | int | Literal["auto"] = "auto"
    seed: int = 0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Park et al. 2023, TRAK: Attributing Model Behavior at Scale",
        needs="gradients; fits or checkpoints for more than one model",
        cost="(2n + q) gradients per model, models - 1 fits",
        good_for="averaging over training randomness, with features that can be kept",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """A similarity: the curvature leaves out the weights p (1 - p), so the scale is not the loss's."""
        return "rank"

    def predict(self, problem: Problem) -> Cost:
        """Features once for the Gram matrix and once for the scores."""
        fits = self.models - 1 if self.over == "seeds" else 0
        return Cost(gradients=self.models * (2 * len(problem.train) + len(problem.query)), fits=fits)

    def prepare(self, problem: Problem, run: Run) -> Members:
        """Features and Gram matrix of every model.

        Raises:
            CapabilityError: If the learner has no gradients, or no checkpoints where those were asked for.
            SettingError: If there are fewer checkpoints than models, or a dense projection is too large.
        """
        require(problem.learner, HasGradients, method="TRAK", instead="leave_one_out or knn_shapley")
        if self.models < 1:
            raise SettingError(f"TRAK: models={self.models}.", fix="ask for at least one model.")
        members: list[Member] = []
        used: list[float] = []
        for number, model in enumerate(self._models(problem, run)):
            fitted = gradients_at(problem, model, run)
            member, strength = self._member(problem, fitted, number, run)
            members.append(member)
            used.append(strength)
        return Members(tuple(members), {"regularisation": used, "models": len(members)})

    def resolved(self, state: Members) -> Mapping[str, Any]:
        """Regularisation per model."""
        return state.resolved

    def score(self, problem: Problem, state: Members, rows: slice) -> Float[np.ndarray, "row query"]:
        """Scores of these rows."""
        part = problem.train.take(rows)
        total = np.zeros((len(part), len(problem.query)))
        doubt = np.zeros(len(part))
        for member in state.members:
            member.fitted.run.spend(gradients=len(part))
            features = member.fitted.gradients.features(part, member.projection, "loss")
            total += (features / member.doubt[rows, None]) @ member.solved.T
            doubt += member.doubt[rows]
        count = len(state.members)
        return total / count * (doubt / count * part.weights())[:, None]

    def _models(self, problem: Problem, run: Run) -> Iterator[Any]:
        if self.over == "seeds":
            yield from ensemble(problem, self.models, run)
            return
        learner = require(problem.learner, HasCheckpoints, method="TRAK", instead="trak with over='seeds'")
        found = [model for model, _ in learner.checkpoints(explained(problem, run))]
        if len(found) < self.models:
            raise SettingError(
                f"TRAK: models={self.models} over checkpoints, but the training kept {len(found)}.",
                fix=f"ask for at most {len(found)}, or train with checkpoints={self.models} in the recipe.",
            )
        yield from found[-self.models :]

    def _member(self, problem: Problem, fitted: Fitted, number: int, run: Run) -> tuple[Member, float]:
        size = fitted.gradients.size
        if self.projection == "dense" and size * self.dimension > _LARGEST_DENSE:
            raise SettingError(
                f"TRAK: a dense projection of {size:,} parameters to {self.dimension} takes "
                f"{size * self.dimension * 4 / 2**30:.1f} GiB.",
                fix='use projection="two-sided", or a smaller dimension.',
            )
        projection = Projection(self.dimension, self.projection, seed=self.seed * 1_000_003 + number)
        doubt = _doubt(problem, fitted.model)
        weights = problem.train.weights()

        def gram() -> dict[str, np.ndarray]:
            total: np.ndarray | None = None
            run.spend(gradients=len(problem.train))
            for start in range(0, len(problem.train), 4096):
                rows = slice(start, start + 4096)
                features = fitted.gradients.features(problem.train.take(rows), projection, "loss")
                features = features.astype(np.float64) / doubt[rows, None] * np.sqrt(weights[rows, None])
                part = features.T @ features
                total = part if total is None else total + part
            return {"gram": np.zeros((0, 0)) if total is None else total}

        key = f"trak/{problem.mark()}-{self.over}-{self.models}-{number}-{self.projection}-{self.dimension}-{self.seed}"
        matrix = np.asarray(run.keep(key, gram)["gram"])
        strength = (
            float(np.trace(matrix)) / len(matrix) * 0.1
            if self.regularisation == "auto"
            else self.regularisation
        )
        run.spend(gradients=len(problem.query))
        queries = fitted.gradients.features(problem.query, projection, "measurement").astype(np.float64)
        sign = 1.0 if problem.learner.measurement.lower_is_better else -1.0
        damped = matrix + float(strength) * np.eye(len(matrix))
        solved = scipy.linalg.solve(damped, sign * queries.T, assume_a="sym").T
        return Member(fitted, projection, solved, doubt), float(strength)


def _doubt(problem: Problem, model: Any) -> Float[np.ndarray, " train"]:
    """One minus the probability of the right label; ones where there are no class probabilities."""
    learner, train = problem.learner, problem.train
    if train.label is None or not isinstance(learner, HasPredictions):
        return np.ones(len(train))
    try:
        probabilities = learner.probabilities(model, train)
    except CapabilityError:  # a loss without classes: its own value is the model output
        return np.ones(len(train))
    values = np.unique(train.labels())
    columns = np.searchsorted(values, train.labels()) if values.dtype.kind not in "iu" else train.labels()
    own = np.zeros(probabilities.shape, dtype=bool)
    own[np.arange(len(train)), columns.astype(np.int64)] = True
    # Summing the others keeps digits that 1 - p would lose.
    return np.maximum(np.where(own, 0.0, probabilities).sum(axis=1), _LEAST_DOUBT)
