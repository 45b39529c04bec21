"""EK-FAC refined to the exact damped Gauss-Newton matrix: by conjugate gradient, or by ASTRA (Wang et al. 2025).

EK-FAC is a good guess of the inverse and, as such, a good preconditioner: a few products with the exact curvature take
its error away. The prediction, its unit and its sign are those of ``influence.py``.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from steelyard.collect.gradients import solver_products
from steelyard.problem import Problem
from steelyard.records import Cost, Products
from steelyard.run import Run
from steelyard.score.driver import MethodCard
from steelyard.score.influence import (
    Fisher,
    Preconditioned,
    as_resolved,
    measured_unit,
    row_influence,
    row_split,
    score_all,
    whole_queries,
)

Precision = Literal["auto", "model", "float64"]


@dataclass(frozen=True)
class EKFACCG:
    """Influence with the exact damped Gauss-Newton matrix, solved with EK-FAC as the preconditioner.

    The damping matters more here than for EK-FAC alone: an exact inverse at a small damping is exact about noise. So
    the default looks for the damping under which the inverse of four fifths of the training set serves the
    gradients of the rest best.

    Args:
        damping: Added to every eigenvalue of the *mean* curvature. ``"heldout"``: see ``collect/held_out.py``;
            ``"training"``: one over the sum of the learning rates, what a training of that length amounts to;
            ``"blocks"``: EK-FAC's own, a tenth of the mean eigenvalue of each block, so that what is refined is
            what ``EKFAC()`` approximates; or a number.
        iterations: At most so many (``"cg"``), or so many (``"astra"``).
        tolerance: For ``"cg"``: stop at this residual, relative to the right-hand side.
        refinement: ``"cg"``: conjugate gradient over the training set; ``"astra"``: a preconditioned Neumann
            series over minibatches, whose iterations cost less.
        scope: ``"model"``: the whole matrix; ``"layers"``: its diagonal blocks, which are what EK-FAC approximates,
            without what couples the layers.
        fisher: Of the preconditioner, as in ``EKFAC``.
        batch_size: For ``"astra"``.
        precision: ``"model"``: the model's own number type; ``"auto"``: float64 up to two million parameters.

    Source: Wang et al. (2025), "Better Training Data Attribution via Better Inverse Hessian-Vector Products", section
    3 and eq. 9, for ASTRA; Grosse et al. (2023), eq. 16 to 20, for the preconditioner.
    """

    damping: float | int | Literal["heldout", "training", "blocks"] = "heldout"
    iterations: int = 20
    tolerance: float = 1e-2
    refinement: Literal["cg", "astra"] = "cg"
    scope: Literal["model", "layers"] = "model"
    fisher: Fisher = "auto"
    batch_size: int = 256
    precision: Precision = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Wang et al. 2025, Better Training Data Attribution via Better Inverse Hessian-Vector Products",
        needs="gradients of a network's layers",
        cost="ekfac, then n (1 + 4/3 q) gradients per iteration",
        good_for="the closest to retraining that one model gives, for few queries",
    )
    __call__ = score_all
    queries_at_once = whole_queries
    unit = measured_unit
    resolved = as_resolved
    score = row_influence
    split = row_split

    def predict(self, problem: Problem) -> Cost:
        """EK-FAC, all iterations, and the scores."""
        products = self.products(problem).gradients
        return Cost(gradients=round(products) + 3 * len(problem.train) + len(problem.query))

    def products(self, problem: Problem) -> Products:
        """One per iteration and lot of queries, over all examples or a minibatch."""
        size = len(problem.train) if self.refinement == "cg" else min(self.batch_size, len(problem.train))
        return solver_products(problem, self.iterations, size, curvature="auto", precision=self.precision)

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """EK-FAC, and the solution for every query."""
        # Imported here: linear models have gradients too, without torch.
        from steelyard.collect.refining import Refinement, refined

        asked = Refinement(
            self.refinement,
            self.scope,
            self.damping,
            self.fisher,
            self.iterations,
            self.tolerance,
            self.batch_size,
        )
        found = refined(problem, run, self, asked, precision=self.precision)
        return Preconditioned(found.fitted, found.side, found.resolved)
