"""MAGIC (Ilyas & Engstrom 2025, arXiv:2504.16430): exact derivatives of measurements through the whole training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs

_QUERY_NUMBERS = 2**27  # cotangents of parameters and two moments, with room to work: about 4 GiB in float32


@dataclass(frozen=True, eq=False)
class Replayed:
    """Derivatives of measurements in weights, and the facts of the training.

    Attributes:
        values: ``float64["train query"]`` In the measurement's unit per unit of weight.
        resolved: Plain values for the record.
    """

    values: np.ndarray
    resolved: Mapping[str, Any]


@dataclass(frozen=True)
class Replay:
    """``-w_i dF_q/dw_i``, differentiated exactly through every step of the deterministic training.

    First-order effect of setting the example's weight to zero while everything else stays as it was: the same batches,
    each still divided by its size, the same dropout masks. Removing the example for good also moves the examples after
    it to other batches (and divides by what is left), which is no small change of a weight and not in the derivative.

    Args:
        check: ``"metasmoothness"`` also trains three times at slightly different weights and notes it where training
            is too rough for a derivative to predict anything; ``"none"`` saves these fits.
        directions: Random directions of that check.

    Source: Ilyas & Engstrom (2025), "MAGIC: Near-Optimal Data Attribution for Deep Learning", section 3; Engstrom et
    al. (2025), "Optimizing ML Training with Metagradient Descent", section 2.3 (REPLAY) and definition 2, eq. 6.
    """

    check: Literal["metasmoothness", "none"] = "metasmoothness"
    directions: int = 1
    card: ClassVar[MethodCard] = MethodCard(
        paper="Ilyas & Engstrom 2025, MAGIC: Near-Optimal Data Attribution for Deep Learning",
        needs="a training that the learner can replay",
        cost="6 fits, and per query at most 2 gradients per example and epoch, all queries at once",
        good_for="the exact answer for one deterministic training, converged or not",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """The measurement's."""
        return problem.learner.measurement.unit

    def predict(self, problem: Problem) -> Cost:
        """The explained fit, its recording and recomputation, the check; a pull per visit of an example and query."""
        visits = len(problem.train) * _epochs(problem.learner.settings())
        checked = 1 + 2 * self.directions if self.check == "metasmoothness" else 0
        return Cost(gradients=2 * visits * (1 + len(problem.query)), fits=3 + checked)

    def queries_at_once(self, problem: Problem) -> int:
        """As many as keep the cotangents near 4 GiB."""
        parameters = problem.learner.settings().get("parameters")
        return max(1, _QUERY_NUMBERS // int(parameters)) if parameters else len(problem.query)

    def prepare(self, problem: Problem, run: Run) -> Replayed:
        """Derivatives of all measurements in all weights.

        Raises:
            CapabilityError: If the learner cannot replay its training.
            ModelError: If the training does not repeat, or cannot be differentiated.
        """
        # Imported here: a learner without torch is refused before torch is loaded.
        from steelyard.problem import HasReplay, require

        require(problem.learner, HasReplay, method="Replay", instead="source, tracin or ekfac")
        from steelyard.collect.replay import SMOOTH, metasmoothness, replayed

        found = replayed(problem, run)
        facts = dict(found.facts)
        if self.check == "metasmoothness":
            smooth = metasmoothness(problem, run, directions=self.directions)
            facts["metasmoothness"] = [round(float(value), 4) for value in smooth]
            if float(smooth.mean()) < SMOOTH:
                run.note(
                    f"metasmoothness is {smooth.mean():.2f}, below {SMOOTH}: the training is too rough for its "
                    "derivative to predict what a change of the data does; scores of replay may mislead. Smaller "
                    "learning rates, larger batches, smooth activations and a larger eps of Adam help."
                )
        return Replayed(found.values, facts)

    def resolved(self, state: Replayed) -> Mapping[str, Any]:
        """Steps, and the metasmoothness that was measured."""
        return state.resolved

    def score(self, problem: Problem, state: Replayed, rows: slice) -> Float[np.ndarray, "row query"]:
        """Scores of these rows."""
        sign = 1.0 if problem.learner.measurement.lower_is_better else -1.0
        weights = problem.train.weights()[rows]
        return -sign * weights[:, None] * state.values[rows]


def _epochs(settings: Mapping[str, Any]) -> int:
    """Passes over the training examples, over all stages."""
    if "stages" in settings:
        return sum(int(stage["epochs"]) for stage in settings["stages"])
    return int(settings.get("epochs", 1))
