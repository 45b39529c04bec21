"""Influence with the exact damped curvature, by solvers that need its products alone: CG, LiSSA, Arnoldi, Nyström.

The prediction, its unit and its sign are those of ``influence.py``; the algorithms with their papers and every
deviation are in ``gradients/solvers.py``. All converge to what ``GaussNewton`` gives at the same damping.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from steelyard.collect.gradients import solver_products
from steelyard.problem import Problem
from steelyard.records import Cost, Products
from steelyard.run import Run
from steelyard.score.driver import MethodCard
from steelyard.score.influence import (
    Preconditioned,
    as_resolved,
    measured_unit,
    row_influence,
    row_split,
    score_all,
    whole_queries,
)

Curvature = Literal["auto", "gauss_newton", "hessian", "fisher"]
Precision = Literal["auto", "model", "float64"]
Damping = float | int | Literal["auto", "heldout", "training"]


def products_and_scores(method: Any, problem: Problem) -> Cost:
    """All products with the curvature, and a gradient per example and query."""
    products = method.products(problem)
    return Cost(gradients=round(products.gradients) + len(problem.train) + len(problem.query))


@dataclass(frozen=True)
class CG:
    """Influence by conjugate gradient on the damped Gauss-Newton matrix.

    Args:
        damping: Added to every eigenvalue of the *mean* curvature. ``"auto"``: a tenth of the mean eigenvalue;
            ``"training"``: one over the sum of the learning rates, what a training of that length amounts to;
            ``"heldout"``: what serves held-out training gradients best, see ``collect/held_out.py``.
        iterations: At most so many.
        tolerance: Stop at this residual, relative to the right-hand side.
        curvature: ``"gauss_newton"``; the exact ``"hessian"``, which needs enough damping to be positive
            definite; or the ``"fisher"`` matrix of drawn labels. ``"auto"`` is the first, or the last where the loss's
            curvature in the outputs is not known.
        precision: ``"model"``: the model's own number type; ``"auto"``: float64 up to two million parameters.

    Source: Koh & Liang (2017), eq. 2 and section 3; Martens (2010), "Deep Learning via Hessian-free Optimization".
    """

    damping: Damping = "auto"
    iterations: int = 100
    tolerance: float = 1e-4
    curvature: Curvature = "auto"
    precision: Precision = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Koh & Liang 2017, Understanding Black-box Predictions via Influence Functions",
        needs="gradients of a network",
        cost="n (1 + 4/3 q) gradients per iteration",
        good_for="exact influence for few queries on networks too large for gauss_newton",
    )
    __call__ = score_all
    queries_at_once = whole_queries
    unit = measured_unit
    resolved = as_resolved
    score = row_influence
    split = row_split
    predict = products_and_scores

    def products(self, problem: Problem) -> Products:
        """One over all examples per iteration and lot of queries."""
        return _per_lot(problem, self, self.iterations, len(problem.train))

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Solve for every query."""
        from steelyard.collect.inverses import by_conjugate_gradient

        return _taken(
            by_conjugate_gradient(
                _system(problem, run, self),
                self,
                damping=self.damping,
                tolerance=self.tolerance,
                iterations=self.iterations,
            )
        )


@dataclass(frozen=True)
class LiSSA:
    """Influence by a Neumann series over minibatches.

    It converges if the scale is above the largest eigenvalue of every minibatch's damped curvature, slowly if it is
    far above the damping; the residual over all examples is in the record. A series that diverges is an error, not
    a score.

    Args:
        damping: As in ``CG``.
        scale: What the curvature is divided by. ``"auto"``: 1.1 times the largest eigenvalue that power iteration
            finds on the training set and four minibatches; doubled where the series diverges even so.
        iterations: Terms of the series.
        batch_size: Examples per term.
        repeats: Independent series that are averaged.
        curvature: As in ``CG``.
        precision: As in ``CG``.

    Source: Agarwal et al. (2017), eq. 9; Koh & Liang (2017), section 3.
    """

    damping: Damping = "auto"
    scale: float | int | Literal["auto"] = "auto"
    iterations: int = 200
    batch_size: int = 64
    repeats: int = 1
    curvature: Curvature = "auto"
    precision: Precision = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Agarwal et al. 2017, Second-Order Stochastic Optimization for Machine Learning in Linear Time",
        needs="gradients of a network",
        cost="batch size x (1 + 4/3 q) gradients per term, n + q gradients",
        good_for="comparison with published results; cg is nearer the solution for the same cost",
    )
    __call__ = score_all
    queries_at_once = whole_queries
    unit = measured_unit
    resolved = as_resolved
    score = row_influence
    split = row_split
    predict = products_and_scores

    def products(self, problem: Problem) -> Products:
        """One over a minibatch per term and lot of queries."""
        return _per_lot(
            problem, self, self.repeats * self.iterations, min(self.batch_size, len(problem.train))
        )

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Solve for every query."""
        from steelyard.collect.inverses import by_lissa

        return _taken(
            by_lissa(
                _system(problem, run, self),
                self,
                damping=self.damping,
                scale=self.scale,
                iterations=self.iterations,
                batch_size=self.batch_size,
                repeats=self.repeats,
            )
        )


@dataclass(frozen=True)
class Arnoldi:
    """Influence with the largest eigenpairs of the curvature, found once for all queries.

    Deviation from the paper: directions outside the eigenpairs count with one over the damping, as in the damped
    solution that this approximates; ``complement="drop"`` leaves them out, as the paper does.

    Args:
        damping: As in ``CG``.
        rank: Eigenpairs that are kept.
        steps: Dimension of the Krylov space that they are taken from; ``"auto"``: twice the rank.
        complement: What is done with directions outside.
        curvature: As in ``CG``.
        precision: As in ``CG``.
        seed: Of the first vector.

    Source: Schioppa et al. (2021), "Scaling Up Influence Functions", section 3.2.
    """

    damping: Damping = "auto"
    rank: int = 50
    steps: int | Literal["auto"] = "auto"
    complement: Literal["damping", "drop"] = "damping"
    curvature: Curvature = "auto"
    precision: Precision = "auto"
    seed: int = 0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Schioppa et al. 2021, Scaling Up Influence Functions",
        needs="gradients of a network",
        cost="7/3 n gradients per step, n + q gradients",
        good_for="many queries at one model, where few directions carry the curvature",
    )
    __call__ = score_all
    queries_at_once = whole_queries
    unit = measured_unit
    resolved = as_resolved
    score = row_influence
    split = row_split
    predict = products_and_scores

    def products(self, problem: Problem) -> Products:
        """One of a single vector per step."""
        return Products(
            self._steps, len(problem.train), 1, self.curvature, self.precision, isinstance(self.damping, str)
        )

    @property
    def _steps(self) -> int:
        return 2 * self.rank if self.steps == "auto" else self.steps

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Eigenpairs, and the query side with their inverse applied."""
        return _low_rank(
            problem,
            run,
            self,
            "arnoldi",
            self._steps,
            start="gaussian",
            complement=self.complement == "damping",
        )


@dataclass(frozen=True)
class Nystrom:
    """Influence with a Nyström approximation of the curvature, found once for all queries.

    Args:
        damping: As in ``CG``.
        rank: Vectors of the sketch.
        sketch: ``"gaussian"``: random directions, the better approximation; ``"columns"``: drawn columns, as in
            the paper.
        curvature: As in ``CG``; positive semi-definite, so not the Hessian.
        precision: As in ``CG``.
        seed: Of the sketch.

    Source: Hataya & Yamada (2023), "Nyström Method for Accurate and Scalable Implicit Differentiation", eq. 6;
    Frangella, Tropp & Udell (2021), "Randomized Nyström Preconditioning", algorithm 2.1.
    """

    damping: Damping = "auto"
    rank: int = 100
    sketch: Literal["gaussian", "columns"] = "gaussian"
    curvature: Literal["auto", "gauss_newton", "fisher"] = "auto"
    precision: Precision = "auto"
    seed: int = 0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Hataya & Yamada 2023, Nystrom Method for Accurate and Scalable Implicit Differentiation",
        needs="gradients of a network",
        cost="n (1 + 4/3 rank) gradients, n + q gradients",
        good_for="as arnoldi, where products with many vectors at once are cheaper than one after another",
    )
    __call__ = score_all
    queries_at_once = whole_queries
    unit = measured_unit
    resolved = as_resolved
    score = row_influence
    split = row_split
    predict = products_and_scores

    def products(self, problem: Problem) -> Products:
        """One of the whole sketch."""
        return Products(
            1, len(problem.train), self.rank, self.curvature, self.precision, isinstance(self.damping, str)
        )

    def prepare(self, problem: Problem, run: Run) -> Preconditioned:
        """Eigenpairs, and the query side with their inverse applied."""
        return _low_rank(problem, run, self, "nystrom", 0, start=self.sketch, complement=True)


def _system(problem: Problem, run: Run, method: "CG | LiSSA | Arnoldi | Nystrom") -> Any:
    # Imported here: linear models have gradients too, without torch.
    from steelyard.collect.solving import open_system

    name = type(method).__name__
    return open_system(problem, run, method=name, curvature=method.curvature, precision=method.precision)


def _taken(found: Any) -> Preconditioned:
    return Preconditioned(found.fitted, found.side, found.resolved)


def _low_rank(  # noqa: PLR0913 - what tells the two methods apart
    problem: Problem,
    run: Run,
    method: "Arnoldi | Nystrom",
    algorithm: Literal["arnoldi", "nystrom"],
    steps: int,
    *,
    start: Literal["gaussian", "columns"],
    complement: bool,
) -> Preconditioned:
    from steelyard.collect.inverses import by_eigenpairs

    return _taken(
        by_eigenpairs(
            _system(problem, run, method),
            algorithm,
            damping=method.damping,
            rank=method.rank,
            steps=steps,
            start=start,
            complement=complement,
            seed=method.seed,
        )
    )


def _per_lot(problem: Problem, method: "CG | LiSSA", count: int, examples: int) -> Products:
    return solver_products(
        problem,
        count,
        examples,
        curvature=method.curvature,
        precision=method.precision,
        traced=isinstance(method.damping, str),
    )
