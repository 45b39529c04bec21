"""Leave-one-out by retraining: the definition that every other method approximates."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from steelyard.collect.fits import outcomes
from steelyard.errors import FitError, SettingError
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs

_CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Baseline:
    """What leave-one-out compares with.

    Attributes:
        run: Where fits are kept.
        values: ``float64["seed query"]`` Measurements after training on everything.
    """

    run: Run
    values: np.ndarray


@dataclass(frozen=True)
class LeaveOneOut:
    r"""Change of every query's measurement when one training example is left out and the model retrained.

    .. math:: s_{iq} = \pm\frac{1}{S} \sum_s \left[ f_q(D \setminus i, s) - f_q(D, s) \right],

    with + for measurements that are better when lower. Both fits of a pair have the same seed: the same
    initialisation and the same batch order of the examples they share. Exact for a deterministic learner; for
    others the noise of S paired differences remains, and training noise can hide the effect of one example.

    Cost: (n + 1) · seeds fits, each kept as soon as it is finished.

    Args:
        seeds: Pairs of fits to average over.

    Example:
        >>> LeaveOneOut(seeds=2)
        LeaveOneOut(seeds=2)

    Source: Cook (1977), "Detection of influential observation in linear regression", eq. 5, without Cook's
    scaling and for any measurement.
    """

    seeds: int = 1

    card: ClassVar[MethodCard] = MethodCard(
        paper="Cook (1977), Detection of influential observation in linear regression",
        needs="n + 1 fits per seed",
        cost="(n + 1) x seeds fits",
        good_for="small data and fast learners; the reference that others are checked against",
    )

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise SettingError(f"LeaveOneOut: seeds={self.seeds}.", fix="give at least one seed.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Scores in the unit of the measurement."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """That of the measurement."""
        return problem.learner.measurement.unit

    def predict(self, problem: Problem) -> Cost:
        """One fit per example and seed, and one per seed of the full set."""
        return Cost(fits=(len(problem.train) + 1) * self.seeds)

    def prepare(self, problem: Problem, run: Run) -> Baseline:
        """Fit the full training set with every seed.

        Raises:
            FitError: If one of these fits fails.
        """
        weights = np.ones((self.seeds, len(problem.train)))
        found = outcomes(problem, weights, range(self.seeds), run, purpose="scoring")
        if found.failed.any():
            raise FitError(
                f"LeaveOneOut: training on everything failed. {found.note()}",
                fix="make the recipe train this data first.",
            )
        return Baseline(run, found.values)

    def score(self, problem: Problem, state: Baseline, rows: slice) -> Float[np.ndarray, "row query"]:
        """Refit without each of these rows.

        Raises:
            FitError: If a fit fails: a missing value is not a score.
        """
        total = len(problem.train)
        indices = np.arange(total)[rows]
        step = max(1, _CHUNK_BYTES // (8 * total * self.seeds))
        parts = [
            self._without(problem, state, indices[low : low + step]) for low in range(0, len(indices), step)
        ]
        return np.concatenate(parts)

    def _without(self, problem: Problem, state: Baseline, left_out: np.ndarray) -> np.ndarray:
        weights = np.ones((len(left_out), len(problem.train)))
        weights[np.arange(len(left_out)), left_out] = 0.0
        numbers = list(range(self.seeds)) * len(left_out)
        found = outcomes(
            problem, np.repeat(weights, self.seeds, axis=0), numbers, state.run, purpose="scoring"
        )
        if found.failed.any():
            example = problem.train.ids[left_out[int(np.argmax(found.failed)) // self.seeds]]
            raise FitError(
                f"LeaveOneOut: training without example {str(example)!r} failed. {found.note()}",
                fix="make the recipe robust, or choose a method without refits.",
            )
        change = found.values.reshape(len(left_out), self.seeds, -1) - state.values[None]
        sign = 1.0 if problem.learner.measurement.lower_is_better else -1.0
        return sign * change.mean(axis=1)
