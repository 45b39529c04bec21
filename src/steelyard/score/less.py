"""LESS (Xia et al. 2024, arXiv:2402.04333): cosines of query gradients with Adam's direction, along the training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.fits import explained
from steelyard.collect.gradients import Fitted, gradients_at
from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.gradients.signs import Projection
from steelyard.problem import HasCheckpoints, HasGradients, Problem, require
from steelyard.records import Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs
from steelyard.score.projected import query_features

_INSTEAD = "leave_one_out, knn_shapley or embedding_cosine"


@dataclass(frozen=True, eq=False)
class Point:
    """One checkpoint.

    Attributes:
        features: Of training examples: directions, where the training was by Adam.
        queries: ``[query, feature]`` of length one, signed by the measurement.
        rate: Share of the checkpoint in the score.
    """

    features: Any
    queries: Float[np.ndarray, "query feature"]
    rate: float


@dataclass(frozen=True, eq=False)
class Points:
    """The checkpoints and what was resolved."""

    points: tuple[Point, ...]
    resolved: Mapping[str, Any]


@dataclass(frozen=True)
class LESS:
    """``sum_c eta_c cos(P grad m_q(theta_c), P Gamma_i(theta_c)) / sum_c eta_c``, positive where i helps q.

    Gamma is what Adam's next step would be along if the batch were example i: see
    ``gradients/moments.py``. Lengths do not count, so that short texts, whose gradients are large, do not win.

    Args:
        dimension: Features per example: in all (dense), per layer at most (others).
        projection: ``"dense"`` as in the paper, ``"two-sided"`` or ``"sparse"`` for large models.
        direction: ``"adam"``, or ``"gradient"`` alone. ``"auto"``: Adam's where the training kept its moments or
            ``states`` names them, else the gradient.
        states: Optimiser states saved with torch (``optimizer.pt``), one per checkpoint, in their order.
        checkpoints: How many of the training's checkpoints, the last ones; 0 is all. A model that came trained has
            one.
        seed: Of the projection; every checkpoint has the same.

    Deviations. The direction is divided by ``sqrt(v) + eps`` after the bias correction of step t + 1, as Adam does
    it (the published code divides by ``sqrt(v + eps)`` and corrects nothing). Checkpoints weigh by the sum of
    learning rates since the one before, not by their mean over an epoch, and weights sum to 1. Queries are scored
    one by one; the paper takes the largest mean over a task's examples.

    Source: Xia et al. (2024), "LESS: Selecting Influential Data for Targeted Instruction Tuning", definition 3.1
    and section 4; Kingma & Ba (2015), algorithm 1.
    """

    dimension: int = 512
    projection: Literal["dense", "two-sided", "sparse"] = "two-sided"
    direction: Literal["auto", "adam", "gradient"] = "auto"
    states: tuple[str, ...] = ()
    checkpoints: int = 0
    seed: int = 0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Xia et al. 2024, LESS: Selecting Influential Data for Targeted Instruction Tuning",
        needs="gradients of a network's layers; better with Adam's moments and checkpoints",
        cost="(n + q) gradients per checkpoint, training gradients formed in full",
        good_for="choosing fine-tuning data for a target, where training is by Adam",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """A similarity."""
        return "rank"

    def prepare(self, problem: Problem, run: Run) -> Points:
        """Query features at every checkpoint.

        Raises:
            CapabilityError: If the model is not a network, or Adam's direction is asked for and not known.
            DataError: If a saved state is not there, which is said before any training, or cannot be read.
            ModelError: If a saved state is of another model or optimiser.
            SettingError: If there are not as many states as checkpoints, or fewer checkpoints than asked for.
        """
        require(problem.learner, HasGradients, method="LESS", instead=_INSTEAD)
        if self.dimension < 1 or self.checkpoints < 0:
            raise SettingError(
                f"LESS: dimension={self.dimension}, checkpoints={self.checkpoints}.",
                fix="give a dimension of 1 or more, and checkpoints of 0 (all) or more.",
            )
        self._check_states()
        chosen = self._chosen(_trajectory(problem, run))
        total = sum(rate for _, rate in chosen)
        points: list[Point] = []
        directions: list[str] = []
        for number, (model, rate) in enumerate(chosen):
            fitted = gradients_at(problem, model, run)
            features, direction = self._features(problem, fitted, number)
            queries = _unit(query_features(problem, features))
            points.append(Point(features, queries, rate / total))
            directions.append(direction)
        resolved = {
            "checkpoints": len(points),
            "checkpoint_weights": [point.rate for point in points],
            "direction": sorted(set(directions)),
        }
        return Points(tuple(points), resolved)

    def resolved(self, state: Points) -> Mapping[str, Any]:
        """Checkpoints with their weights, and the direction."""
        return state.resolved

    def score(self, problem: Problem, state: Points, rows: slice) -> Float[np.ndarray, "row query"]:
        """Weighted cosines of these rows; an example without gradient gets 0."""
        part = problem.train.take(rows)
        total = np.zeros((len(part), len(problem.query)))
        for point in state.points:
            total += point.rate * (_unit(point.features(part, "loss")) @ point.queries.T)
        return total

    def _check_states(self) -> None:
        missing = [path for path in self.states if not Path(path).is_file()]
        if missing:
            raise DataError(
                f"LESS: of the {len(self.states)} optimiser states in states=..., there is no such file as "
                f"{', '.join(missing)}.",
                fix="name the optimizer.pt of every checkpoint, in their order; or leave out the checkpoints before "
                "it too, and set checkpoints=N to use the last N.",
            )

    def _chosen(self, models: Sequence[tuple[Any, float]]) -> Sequence[tuple[Any, float]]:
        if self.checkpoints > len(models):
            raise SettingError(
                f"LESS: checkpoints={self.checkpoints}, but of this training {len(models)} are known.",
                fix=f"ask for at most {len(models)}, or train with checkpoints={self.checkpoints} in the recipe.",
            )
        chosen = models[-self.checkpoints :]
        if self.states and len(self.states) != len(chosen):
            raise SettingError(
                f"LESS: {len(self.states)} optimiser states for {len(chosen)} checkpoints.",
                fix="name one state per checkpoint, in their order; set checkpoints=N to use the last N.",
            )
        return chosen

    def _features(self, problem: Problem, fitted: Fitted, number: int) -> tuple[Any, str]:
        """Features at one checkpoint, and what they are of."""
        from steelyard.collect.features import adam_features, random_features
        from steelyard.collect.optimiser_state import kept_state, saved_state

        projection = Projection(self.dimension, self.projection, seed=self.seed)
        if self.direction != "gradient":
            state = (
                saved_state(problem, fitted, self.states[number])
                if self.states
                else kept_state(problem, fitted, required=self.direction == "adam", method="LESS")
            )
            if state is not None:
                return adam_features(problem, fitted, projection, state, method="LESS"), "adam"
        return random_features(problem, fitted, projection, method="LESS"), "gradient"


def _trajectory(problem: Problem, run: Run) -> list[tuple[Any, float]]:
    """Models with their weights."""
    model, learner = explained(problem, run), problem.learner
    if isinstance(learner, HasCheckpoints):
        try:
            return list(learner.checkpoints(model))
        except CapabilityError:
            # A model that came trained: its one state is all that there is to ask; the record counts it.
            return [(model, 1.0)]
    return [(model, 1.0)]


def _unit(rows: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row feature"]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)
