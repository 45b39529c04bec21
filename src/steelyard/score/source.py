"""SOURCE (Bae et al. 2024, arXiv:2405.12186): unrolled differentiation in segments of constant curvature."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.gradients import queries_within_memory
from steelyard.problem import HasSpans, Problem, require
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs


@dataclass(frozen=True)
class SOURCE:
    """``w_i / n sum_s g_q^T S_L ... S_{s+1} (1 - exp(-tau_s H_s)) / H_s g_i(s)`` over the segments s of the training.

    ``S_s = exp(-tau_s H_s)`` is what a segment leaves of a perturbation, tau_s the sum of its learning rates, H_s and
    g_i(s) the curvature and the example's gradient, averaged over the states kept in it. A long segment is damped
    influence: in directions that training has not yet learned, ``1 / H`` is cut off at tau. Momentum multiplies the
    learning rate by ``1 / (1 - momentum)``; Adam and AdamW precondition by their second moments. Every stage of a
    training in stages counts its own examples.

    Args:
        segments: At most so many per stage; the recipe's ``checkpoints`` should be a multiple (the paper: 6 for 3).
        curvature: ``"ekfac"``; ``"exact"`` for models of up to 20,000 parameters.
        fisher: As in :class:`EKFAC`.

    Source: Bae et al. (2024), "Training Data Attribution via Approximate Unrolled Differentiation", section 3.2,
    eq. 16 (what a segment leaves), and appendix D for momentum and Adam. Deviations are in
    ``gradients/unrolling.py``; ensembles are the caller's.
    """

    segments: int = 3
    curvature: Literal["ekfac", "exact"] = "ekfac"
    fisher: Literal["auto", "exact", "sampled", "empirical"] = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Bae et al. 2024, Training Data Attribution via Approximate Unrolled Differentiation",
        needs="gradients of a network's layers, checkpoints",
        cost="3n gradients per checkpoint, q gradients, one eigendecomposition per segment, layer and side",
        good_for="training that stopped before its optimum, or went through stages on other data",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """The measurement's."""
        return problem.learner.measurement.unit

    def predict(self, problem: Problem) -> Cost:
        """Curvature and scores at every checkpoint, and the queries."""
        states = _checkpoints(problem.learner.settings())
        return Cost(gradients=3 * states * len(problem.train) + len(problem.query))

    def queries_at_once(self, problem: Problem) -> int:
        """As many as keep one side per segment near 1 GiB."""
        return max(1, queries_within_memory(problem) // max(1, self.segments))

    def prepare(self, problem: Problem, run: Run) -> Any:
        """Segments with their curvature, and the queries carried back through them.

        Raises:
            CapabilityError: If the learner does not know its training.
        """
        require(problem.learner, HasSpans, method="SOURCE", instead="ekfac or leave_one_out")
        # Imported here: a learner without torch is refused before torch is loaded.
        from steelyard.collect.unrolling import unroll

        return unroll(problem, run, segments=self.segments, curvature=self.curvature, fisher=self.fisher)

    def resolved(self, state: Any) -> Mapping[str, Any]:
        """Segments, their horizons, and the Fisher."""
        return state.resolved

    def score(self, problem: Problem, state: Any, rows: slice) -> Float[np.ndarray, "row query"]:
        """Sum over the segments of these rows' effects, times their training weights."""
        from steelyard.collect.unrolling import product

        asked = np.arange(len(problem.train))[rows]
        total = np.zeros((len(asked), len(problem.query)))
        for stretch in state.stretches:
            places = np.flatnonzero(np.isin(asked, stretch.rows))
            if len(places):
                total[places] += product(problem, stretch, asked[places])
        return total * problem.train.weights()[asked, None]


def _checkpoints(settings: Mapping[str, Any]) -> int:
    """How many states a training keeps, over all stages."""
    kept = [stage["checkpoints"] for stage in settings.get("stages", [settings])]
    return sum(max(1, one if isinstance(one, int) else len(one) + 1) for one in kept)
