"""Influence with Kronecker-factored curvature: K-FAC, EK-FAC (Grosse et al. 2023), tK-FAC and Shampoo.

The prediction, its unit and its sign are those of ``influence.py``; the factorisations are defined in
``gradients/factorisations.py``, with every deviation.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from steelyard.collect.gradients import queries_within_memory
from steelyard.problem import Problem
from steelyard.records import Cost
from steelyard.run import Run
from steelyard.score.driver import MethodCard
from steelyard.score.influence import (
    Damping,
    Fisher,
    Preconditioned,
    as_resolved,
    measured_unit,
    row_influence,
    row_split,
    score_all,
    whole_queries,
    with_kronecker_metric,
)


@dataclass(frozen=True)
class KFAC:
    """Influence with Kronecker-factored curvature.

    Args:
        damping: Added to every eigenvalue of the *mean* curvature; ``"auto"`` is a tenth of the mean eigenvalue
            of each block, from the factors alone; ``"heldout"`` makes the gradients of held-out training
            examples likeliest, see ``gradients/damping.py``.
        fisher: ``"exact"`` (one backward pass per output), ``"sampled"`` labels, the ``"empirical"`` labels;
            ``"auto"`` is the first of these that the loss offers, exact up to 16 outputs.
        rank: Keep only so many singular vectors of each query's preconditioned gradient per block, so that more
            queries fit into memory; None keeps all. What is lost, as a share of the gradient's length, is in the
            record (``rank_lost_mean``, ``rank_lost_most``).

    Source: Martens & Grosse (2015), section 3.1, eq. 2; Grosse et al. (2023), eq. 16 and 18, and section 3.2.2 for the
    rank.
    """

    damping: Damping = "auto"
    fisher: Fisher = "auto"
    rank: int | None = None
    card: ClassVar[MethodCard] = MethodCard(
        paper="Martens & Grosse 2015, Optimizing Neural Networks with Kronecker-factored Approximate Curvature",
        needs="gradients of a network's layers",
        cost="2n + q gradients, one eigendecomposition per layer and side",
        good_for="when the second pass of ekfac is too dear",
    )
    __call__ = score_all
    unit = measured_unit
    resolved = as_resolved
    score = row_influence
    split = row_split

    def predict(self, problem: Problem) -> Cost:
        """One pass for the factors, one for the scores."""
        return passes(problem, 2, self.damping)

    def queries_at_once(self, problem: Problem) -> int:
        """As many as keep the query side near 1 GiB."""
        return queries_within_memory(problem, self.rank)

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Factors, and the query side with their inverse applied."""
        return with_kronecker_metric(
            problem, run, "kfac", fisher=self.fisher, damping=self.damping, rank=self.rank
        )


@dataclass(frozen=True)
class EKFAC:
    """Influence with eigenvalue-corrected Kronecker-factored curvature: the default for networks.

    Args:
        damping: As in ``KFAC``.
        fisher: As in ``KFAC``.
        rank: As in ``KFAC``.

    Source: Grosse et al. (2023), "Studying Large Language Model Generalization with Influence Functions", eq. 16
    (factors), 18 (eigenbasis) and 20 (corrected eigenvalues); George et al. (2018), section 3.2 and theorem 2.
    """

    damping: Damping = "auto"
    fisher: Fisher = "auto"
    rank: int | None = None
    card: ClassVar[MethodCard] = MethodCard(
        paper="Grosse et al. 2023, Studying Large Language Model Generalization with Influence Functions",
        needs="gradients of a network's layers",
        cost="3n + q gradients, one eigendecomposition per layer and side",
        good_for="the default for networks: closest to the exact curvature that scales",
    )
    __call__ = score_all
    unit = measured_unit
    resolved = as_resolved
    score = row_influence
    split = row_split

    def predict(self, problem: Problem) -> Cost:
        """Two passes for the factors, one for the scores."""
        return passes(problem, 3, self.damping)

    def queries_at_once(self, problem: Problem) -> int:
        """As many as keep the query side near 1 GiB."""
        return queries_within_memory(problem, self.rank)

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Factors, corrected eigenvalues, and the query side with their inverse applied."""
        return with_kronecker_metric(
            problem, run, "ekfac", fisher=self.fisher, damping=self.damping, rank=self.rank
        )


@dataclass(frozen=True)
class TKFAC:
    """Influence with trace-restricted K-FAC, whose factors are weighted by each other's length.

    Args:
        damping: As in ``KFAC``.
        fisher: As in ``KFAC``.

    Source: Gao et al. (2021), "A Trace-restricted Kronecker-Factored Approximation to Natural Gradient", theorem 4.1,
    eq. 4.4 to 4.6.
    """

    damping: Damping = "auto"
    fisher: Fisher = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Gao et al. 2021, A Trace-restricted Kronecker-Factored Approximation to Natural Gradient",
        needs="gradients of a network's layers",
        cost="2n + q gradients, one eigendecomposition per layer and side",
        good_for="one pass like kfac, where inputs and output gradients depend on each other",
    )
    __call__ = score_all
    queries_at_once = whole_queries
    unit = measured_unit
    resolved = as_resolved
    score = row_influence
    split = row_split

    def predict(self, problem: Problem) -> Cost:
        """One pass for the factors, one for the scores."""
        return passes(problem, 2, self.damping)

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Factors, and the query side with their inverse applied."""
        return with_kronecker_metric(problem, run, "tkfac", fisher=self.fisher, damping=self.damping)


@dataclass(frozen=True)
class Shampoo:
    """Influence with the curvature in the eigenbasis of whole gradient matrices: ``E[G G^T]`` and ``E[G^T G]``.

    Unlike K-FAC's, these factors see how the positions of one example add up, which is what a gradient is.

    Args:
        damping: As in ``KFAC``.
        fisher: As in ``KFAC``.
        eigenvalues: ``"corrected"``: measured in this basis by a second pass, as EK-FAC does in K-FAC's;
            ``"product"``: those of the two factors over their trace; ``"root"``: their square roots, which are
            Shampoo's own exponents as an optimiser.

    Source: Gupta et al. (2018), algorithm 1; Morwani et al. (2024), section 3; George et al. (2018), section
    3.2 and theorem 2.
    """

    damping: Damping = "auto"
    fisher: Fisher = "auto"
    eigenvalues: Literal["corrected", "product", "root"] = "corrected"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Gupta et al. 2018, Shampoo: Preconditioned Stochastic Tensor Optimization",
        needs="gradients of a network's layers",
        cost="3n + q gradients, one eigendecomposition per layer and side",
        good_for="sequence models and convolutions, where ekfac takes positions for independent",
    )
    __call__ = score_all
    queries_at_once = whole_queries
    unit = measured_unit
    resolved = as_resolved
    score = row_influence
    split = row_split

    def predict(self, problem: Problem) -> Cost:
        """One or two passes for the factors, one for the scores."""
        return passes(problem, 3 if self.eigenvalues == "corrected" else 2, self.damping)

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Factors, and the query side with their inverse applied."""
        kind = {"corrected": "eshampoo", "product": "shampoo", "root": "rootshampoo"}[self.eigenvalues]
        return with_kronecker_metric(problem, run, kind, fisher=self.fisher, damping=self.damping)


def passes(problem: Problem, count: int, damping: Damping) -> Cost:
    """That many passes over the training examples; the factors are fitted twice where some are held out."""
    count = 2 * count - 1 if damping == "heldout" else count
    return Cost(gradients=count * len(problem.train) + len(problem.query))
