"""DataInf (Kwon et al. 2024, "DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and Diffusion Models").

The inverse of a mean is replaced by the mean of inverses, layer by layer, and each of those has a closed form
(Sherman & Morrison): eq. 5 of the paper. The prediction, its unit and its sign are those of ``influence.py``.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from steelyard.collect.gradients import open_gradients
from steelyard.problem import Problem
from steelyard.records import Cost
from steelyard.run import Run
from steelyard.score.driver import MethodCard
from steelyard.score.influence import (
    INSTEAD,
    Preconditioned,
    as_resolved,
    measured_unit,
    row_influence,
    row_split,
    score_all,
    whole_queries,
)


@dataclass(frozen=True)
class DataInf:
    r"""Influence with the inverse of the mean replaced by the mean of the inverses, in closed form.

    .. math:: \frac{1}{n} \sum_i \left(w_i g_i g_i^\top + \lambda I\right)^{-1} q
        = \frac{1}{n \lambda} \sum_i \left(q - w_i \frac{g_i^\top q}{\lambda + w_i |g_i|^2} g_i\right)

    per layer. The two inverses agree where the gradients of a layer are all the same up to sign, and differ by more
    the more parameters the layer has, so it is meant for the narrow matrices of LoRA.

    Deviations: a layer is a module, weight and bias together; the mean is divided by n once more, because our
    curvature is that of the summed loss; the l2 penalty of the training is added to the damping.

    Args:
        damping: Lambda. ``"auto"``: per layer a tenth of the mean over examples and parameters of the squared
            gradients, as in the paper; or a positive number for all layers.

    Source: Kwon et al. (2024), eq. 5 and section 4.
    """

    damping: float | int | Literal["auto"] = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Kwon et al. 2024, DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs",
        needs="gradients of a network",
        cost="3n + q gradients",
        good_for="LoRA adapters of low rank, at the cost of three passes and without any matrix to invert",
    )
    __call__ = score_all
    queries_at_once = whole_queries
    unit = measured_unit
    resolved = as_resolved
    score = row_influence
    split = row_split

    def predict(self, problem: Problem) -> Cost:
        """One pass for the damping, one for the sums, one for the scores."""
        return Cost(gradients=3 * len(problem.train) + len(problem.query))

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """The query side with the mean of the inverses applied."""
        fitted = open_gradients(problem, run, method="DataInf", instead=INSTEAD)
        # Imported here: linear models have gradients too, without torch.
        from steelyard.collect.swapped import swapped_inverse

        found = swapped_inverse(problem, fitted, run, damping=self.damping)
        return Preconditioned(found.fitted, found.side, found.resolved)
