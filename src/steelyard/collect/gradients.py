"""Gradients and exact curvature of a problem, whichever kind of model it has; loads no framework by itself."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float

from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError
from steelyard.gradients.parts import By, Split
from steelyard.gradients.signs import Projection
from steelyard.problem import HasCurvature, HasGradients, Problem, require
from steelyard.records import Examples, Products
from steelyard.run import Run


@runtime_checkable
class Gradients(Protocol):
    """What every learner's gradients can do; torch's engine and the closed forms of linear models alike."""

    @property
    def size(self) -> int:
        """Number of parameters."""
        ...

    def prepare(self, queries: Examples, metric: Any = None, *, unit_norm: bool = False) -> Any:
        """Query gradients ready for :meth:`products`, signed so that positive means helpful."""
        ...

    def products(self, examples: Examples, side: Any) -> np.ndarray:
        """``float["example query"]`` ``g_i^T M g_q``."""
        ...

    def self_products(self, examples: Examples, metric: Any = None) -> np.ndarray:
        """``float64[" example"]`` ``g_i^T M g_i``."""
        ...

    def features(
        self, examples: Examples, projection: Projection, of: Literal["loss", "measurement"] = "loss"
    ) -> np.ndarray:
        """``float["example feature"]`` Projected gradients."""
        ...

    def dense(self, examples: Examples, of: Literal["loss", "measurement"] = "loss") -> np.ndarray:
        """``float["example param"]`` Full gradients."""
        ...


@runtime_checkable
class Annotated(Protocol):
    """Gradients that may have had to do something differently."""

    def notes(self, examples: Examples) -> tuple[str, ...]:
        """Fallbacks and handled cases, in words."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """Gradients whose products can be taken apart."""

    def products_by(self, examples: Examples, side: Any, by: By) -> Split:
        """``g_i^T M g_q``, part by part."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """Gradients that give their lengths along with their products."""

    def products_and_squares(self, examples: Examples, side: Any) -> tuple[np.ndarray, np.ndarray]:
        """``float["example query"]`` products and ``float[" example"]`` squared lengths."""
        ...


@runtime_checkable
class Widening(Protocol):
    """Gradients of a model in a narrow number type, that can be had in float64 as well."""

    def widened(self) -> Gradients:
        """The same gradients, computed in float64 throughout."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A fitted model together with its gradients.

    Attributes:
        model: As the learner knows it.
        gradients: The engine at this model.
        run: Whose meter counts what is computed with it.
    """

    model: Any
    gradients: Gradients
    run: Run


def open_gradients(problem: Problem, run: Run, *, method: str, instead: str) -> Fitted:
    """The gradient engine at the explained model; what it had to do differently goes to the run's notes.

    Raises:
        CapabilityError: If the learner has no gradients; names the methods in ``instead``.
    """
    require(problem.learner, HasGradients, method=method, instead=instead)
    return gradients_at(problem, explained(problem, run), run)


def gradients_at(problem: Problem, model: Any, run: Run) -> Fitted:
    """The gradient engine at a given fitted model of the problem's learner."""
    gradients: Gradients = cast(HasGradients, problem.learner).gradients(model)
    if isinstance(gradients, Annotated):
        for note in gradients.notes(problem.train):
            run.note(note)
    return Fitted(model, cast(Gradients, gradients), run)


_QUERY_SIDE_NUMBERS = 2**28  # 1 GiB in float32
_WIDTH = 512
SOLVED_TOGETHER = 32
"""Queries that iterative solvers solve, and keep, together."""


def queries_within_memory(problem: Problem, rank: int | None = None) -> int:
    """How many queries' gradients fit into about 1 GiB; all of them where the learner does not say its size.

    Args:
        problem: Whose learner tells the number of parameters.
        rank: Singular vectors that are kept per query and block, if not all: layers are taken to be at least
            512 wide, as those of models are for which this matters.
    """
    parameters = problem.learner.settings().get("parameters")
    if not parameters:
        return len(problem.query)
    share = 1.0 if rank is None else min(1.0, 2 * rank / _WIDTH)
    return max(1, int(_QUERY_SIDE_NUMBERS / (int(parameters) * share)))


def solver_products(
    problem: Problem,
    iterations: float | int,
    examples: int,
    *,
    curvature: str,
    precision: str,
    traced: bool = False,
) -> Products:
    """The products of so many iterations for all queries, some at a time."""
    count = len(problem.query)
    lots = -(-count // SOLVED_TOGETHER)
    return Products(iterations * lots, examples, min(count, SOLVED_TOGETHER), curvature, precision, traced)


def present_examples(problem: Problem) -> Examples:
    """The training examples whose weight is not 0: those that the training objective is a mean over."""
    rows = np.flatnonzero(problem.train.weights())
    return problem.train if len(rows) == len(problem.train) else problem.train.take(rows)


def training_products(problem: Problem, fitted: Fitted, side: Any, rows: slice) -> np.ndarray:
    """``float["row query"]`` Products of the training examples in ``rows``, times their training weights."""
    part = problem.train.take(rows)
    fitted.run.spend(gradients=len(part))
    products = fitted.gradients.products(part, side)
    return products * part.weights()[:, None].astype(products.dtype)


def products_and_lengths(
    fitted: Fitted, part: Examples, side: Any
) -> tuple[Float[np.ndarray, "example query"], Float[np.ndarray, " example"]]:
    """Products of these examples, unweighted, and the lengths of their gradients; from one pass where possible."""
    engine = fitted.gradients
    fitted.run.spend(gradients=len(part))
    if isinstance(engine, Measuring):
        products, squares = engine.products_and_squares(part, side)
    else:
        products, squares = engine.products(part, side), engine.self_products(part)
    return products, np.sqrt(squares)


def split_products(
    fitted: Fitted, part: Examples, side: Any, by: By, factors: Float[np.ndarray, " example"] | None = None
) -> Split:
    """Products part by part, for training examples that somebody looks at.

    Args:
        fitted: The model and its gradients.
        part: These examples.
        side: The queries.
        by: Which parts.
        factors: What every example's products are multiplied with; their training weights if None.

    Raises:
        CapabilityError: If these gradients have no parts: a linear model's in closed form.
    """
    engine = fitted.gradients
    if not isinstance(engine, Divisible):
        raise CapabilityError(
            f"the gradients of {type(fitted.model).__name__} have no layers or tokens to split by.",
            fix="leave the split out; it is for networks.",
        )
    fitted.run.spend(gradients=len(part))
    return engine.products_by(part, side, by).times(part.weights() if factors is None else factors)


def dense_gradients(
    fitted: Fitted, examples: Examples, of: Literal["loss", "measurement"]
) -> Float[np.ndarray, "example param"]:
    """Full gradients in float64, whatever the model's own number type."""
    engine = fitted.gradients
    if isinstance(engine, Widening):
        engine = engine.widened()
    return np.asarray(engine.dense(examples, of), dtype=np.float64)


def exact_curvature(
    problem: Problem, fitted: Fitted, run: Run, *, method: str
) -> Float[np.ndarray, "param param"]:
    """The curvature of the summed weighted training objective, whole, in float64; kept in the run folder.

    Raises:
        CapabilityError: If the learner has none; names alternatives.
    """
    learner = require(problem.learner, HasCurvature, method=method, instead="ekfac or leave_one_out")

    def compute() -> dict[str, np.ndarray]:
        run.spend(gradients=len(problem.train))
        return {"hessian": learner.hessian(fitted.model, problem.train, problem.train.weights())}

    return np.asarray(run.keep(f"curvature/exact-{problem.mark()}", compute)["hessian"])
