"""Damped curvature systems of a problem: opened, solved for the queries, and kept in the run folder."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steelyard.collect.curvature import penalty, resolve_fisher
from steelyard.collect.gradients import SOLVED_TOGETHER, Fitted, open_gradients, present_examples
from steelyard.errors import CapabilityError, SettingError
from steelyard.gradients.dense import Curved
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.products import Curvature, HasOutputProducts, Kind, block_positions, query_side
from steelyard.gradients.queries import QuerySide
from steelyard.gradients.signs import rademacher
from steelyard.gradients.solvers import Apply, Solution
from steelyard.problem import HasCheckpoints, Problem
from steelyard.records import Examples, Products
from steelyard.run import Run, in_memory
from steelyard.run.seeds import stream

_PROBES = 8
_LARGEST_AUTO = 2_000_000
Precision = Literal["auto", "model", "float64"]


@dataclass(frozen=True, eq=False)
class System:
    """The curvature of a problem's mean training loss at the explained model, ready to be solved with.

    Attributes:
        problem: Whose.
        fitted: The model and its gradients, in the number type that is computed in.
        curvature: Without penalty and damping.
        positions: Where each block's parameters stand in a vector.
        decay: Coefficient of the l2 penalty in the mean training loss.
        key: Names the model, the curvature and the number type, for what is kept.
        resolved: What every ``"auto"`` became.
    """

    problem: Problem
    fitted: Fitted
    curvature: Curvature
    positions: Mapping[str, Int[Tensor, "row column"]]
    decay: float
    key: str
    resolved: Mapping[str, Any]

    @property
    def engine(self) -> TorchGradients:
        """The gradient engine."""
        return cast(TorchGradients, self.fitted.gradients)

    @property
    def run(self) -> Run:
        """Whose meter counts."""
        return self.fitted.run

    def damped(self, shift: float | Float[Tensor, " param"]) -> Apply:
        """Products with the curvature plus ``shift``, counted as gradient-equivalents: one each way per vector."""

        def apply(vectors: Tensor) -> Tensor:
            self.run.spend(gradients=len(self.curvature.examples) * (1 + 4 / 3 * len(vectors)))
            return self.curvature(vectors) + shift * vectors

        return apply

    def random(self, number: int, *names: str) -> Float[Tensor, "one param"]:
        """Random signs for every parameter, the same whatever the order of anything."""
        seed = stream(self.problem.seed, "vectors", *names, number)
        parameters = dict(self.engine.model.named_parameters())
        parts = [
            rademacher(1, parameters[name].numel(), seed=seed, name=name)[0] for name in self.engine.names
        ]
        return torch.from_numpy(np.concatenate(parts))[None].to(parameters[self.engine.names[0]])


def open_system(
    problem: Problem,
    run: Run,
    *,
    method: str,
    curvature: Kind | Literal["auto"],
    precision: Precision,
) -> System:
    """The system of a problem at its explained model.

    Args:
        problem: Whose training examples define the curvature.
        run: Where the model is kept and cost is counted.
        method: Who asks, for errors.
        curvature: ``"auto"``: Gauss-Newton where the loss's curvature in the outputs is known, else the Fisher
            matrix of drawn labels.
        precision: ``"model"``: the model's own number type; ``"float64"``; ``"auto"``: float64 up to two million
            parameters.

    Raises:
        CapabilityError: If the learner's gradients have no layers, or its loss not the curvature asked for.
    """
    fitted = open_gradients(problem, run, method=method, instead="leave_one_out or knn_shapley")
    if not isinstance(fitted.gradients, TorchGradients):
        raise CapabilityError(
            f"{method} multiplies with the curvature of a network, which {type(problem.learner).__name__} is not.",
            fix="use gauss_newton, which inverts it exactly.",
        )
    wide = precision == "float64" or (precision == "auto" and fitted.gradients.size <= _LARGEST_AUTO)
    if wide:
        fitted = replace(fitted, gradients=fitted.gradients.widened())
    engine = cast(TorchGradients, fitted.gradients)
    kind, fisher, reason = _resolve_kind(problem, fitted, curvature)
    train = present_examples(problem)
    # In the order of their ids, so that minibatches and sums do not depend on the order of the rows.
    train = train.take(np.argsort(train.ids, kind="stable"))
    weights = train.weights()
    product = Curvature(
        engine,
        cast(Curved, problem.learner),
        train,
        None if bool((weights == 1).all()) else weights,
        kind,
        fisher,
        stream(problem.seed, "fisher"),
    )
    number = str(next(engine.model.parameters()).dtype).removeprefix("torch.")
    resolved = {"curvature": kind, "curvature_reason": reason, "precision": number}
    return System(
        problem,
        fitted,
        product,
        block_positions(engine, train),
        penalty(problem, fitted),
        f"solve/{kind}-{fisher if kind == 'fisher' else 'exact'}-{number}-{problem.mark()}",
        resolved,
    )


def _resolve_kind(
    problem: Problem, fitted: Fitted, kind: Kind | Literal["auto"]
) -> tuple[Kind, Literal["exact", "sampled", "empirical"], str]:
    if kind == "hessian":
        return kind, "exact", "as given"
    if kind in ("auto", "gauss_newton"):
        learner, engine = cast(Curved, problem.learner), cast(TorchGradients, fitted.gradients)
        batch = next(iter(engine.batches(problem.train.take(slice(0, 1)))))
        try:
            with torch.no_grad():
                outputs = learner.output_function(engine.model, batch)
                if not isinstance(learner, HasOutputProducts):
                    learner.output_hessian_factor(outputs, batch)
            reason = "the loss's curvature in the outputs is known" if kind == "auto" else "as given"
            return "gauss_newton", "exact", reason
        except CapabilityError:
            if kind == "gauss_newton":
                raise
    fisher, why = resolve_fisher(problem, fitted, "auto")
    return "fisher", fisher, why


def scalar_damping(system: System, damping: float | int | str) -> tuple[float, str]:
    """One damping for all parameters, as ``GaussNewton`` has it, and the reason in words.

    Raises:
        SettingError: If the number is negative, or the word unknown.
    """
    if damping == "auto":
        return 0.1 * mean_eigenvalue(
            system
        ), "0.1 x mean eigenvalue, because a network is rarely at its optimum"
    if damping == "training":
        return training_damping(system.problem, system.fitted)
    if damping == "heldout":
        # Imported here: that module solves systems, which this one opens.
        from steelyard.collect.held_out import held_out_damping

        return held_out_damping(system)
    if isinstance(damping, str) or damping < 0:
        raise SettingError(
            f"damping={damping!r}", fix='give "auto", "heldout", "training" or a number that is not negative.'
        )
    return float(damping), "as given"


def mean_eigenvalue(system: System) -> float:
    """The mean eigenvalue of the curvature with its penalty, kept in the run folder; never negative."""

    def compute() -> dict[str, np.ndarray]:
        return {"trace": np.array(system.curvature.trace(_trace_probes(system)))}

    trace = float(system.run.keep(f"{system.key}/trace", compute)["trace"])
    return max(0.0, trace / system.engine.size + system.decay)


def _trace_probes(system: System) -> Float[Tensor, "probe param"]:
    return torch.cat([system.random(number, "trace") for number in range(_PROBES)])


def probe_product(
    problem: Problem, products: Products, few: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A product of random vectors with the curvature of a problem, and its trace over the first few examples.

    Both are to be timed; opens the system.

    Raises:
        CapabilityError: If there is no such product.
    """
    system = open_system(
        problem,
        in_memory(),
        method="a product",
        curvature=cast(Any, products.curvature),
        precision=cast(Precision, products.precision),
    )
    vectors = torch.cat([system.random(number, "probe") for number in range(products.vectors)])

    def trace() -> float:
        return system.curvature.of(np.arange(few)).trace(_trace_probes(system))

    return lambda: system.curvature(vectors), trace


def training_damping(problem: Problem, fitted: Fitted) -> tuple[float, str]:
    """The damping that a training of finite length amounts to: one over the sum of its effective learning rates.

    Gradient descent for a time t on a quadratic fills each eigendirection to ``1 - exp(-t h)``, which is within a
    factor of 1.3 of ``h / (h + 1/t)``: stopping is damping by ``1/t`` (Ali, Kolter & Tibshirani 2019, "A
    Continuous-Time View of Early Stopping for Least Squares Regression", theorem 1). Momentum m makes every step
    ``1 / (1 - m)`` times as long. Looks at the recipe only, never at data.

    Raises:
        CapabilityError: If the training is not known.
    """
    learner = problem.learner
    if not isinstance(learner, HasCheckpoints):
        raise CapabilityError(
            f"damping='training' needs the learning rates, which {type(learner).__name__} does not keep.",
            fix="use damping='auto' or a number.",
        )
    rates = sum(rate for _, rate in learner.checkpoints(fitted.model))
    momentum = float(learner.settings().get("momentum") or 0.0)
    time = rates / (1.0 - momentum)
    return 1.0 / time, f"1 / sum of learning rates, momentum included: the length of the training, {time:g}"


def signed_queries(system: System, queries: Examples) -> Float[Tensor, "query param"]:
    """Gradients of the queries' measurements, signed so that a positive product means helpful."""
    system.run.spend(gradients=len(queries))
    sign = 1.0 if system.problem.learner.measurement.lower_is_better else -1.0
    return sign * torch.from_numpy(system.engine.dense(queries, "measurement"))


def ready(system: System, vectors: Float[Tensor, "query param"]) -> QuerySide:
    """Solutions of the mean system as a query side of the summed one."""
    return query_side(vectors / len(system.curvature.examples), system.positions)


def solve_queries(
    system: System, asked: object, solver: Callable[[Tensor], Solution]
) -> tuple[QuerySide, dict[str, Any]]:
    """Solve for every query, 32 at a time, each lot kept in the run folder as it is finished.

    Args:
        system: The system.
        asked: The method, whose settings name what is kept.
        solver: From right-hand sides to a solution.

    Returns:
        The query side, and residuals and iterations for the record.
    """
    queries = system.problem.query
    facts = json.dumps([repr(asked), system.problem.checksums()], sort_keys=True)
    key = f"{system.key}/{type(asked).__name__}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    lots = []
    for start in range(0, len(queries), SOLVED_TOGETHER):
        part = queries.take(slice(start, start + SOLVED_TOGETHER))

        def compute(part: Examples = part) -> dict[str, np.ndarray]:
            found = solver(signed_queries(system, part))
            return {
                "vectors": found.vectors.numpy(),
                "residuals": found.residuals.double().numpy(),
                "iterations": np.array(found.iterations),
            }

        lots.append(system.run.keep(f"{key}-{start:07d}", compute))
    vectors = torch.from_numpy(np.concatenate([lot["vectors"] for lot in lots]))
    residuals = np.concatenate([lot["residuals"] for lot in lots])
    told = {
        "residual_median": float(np.median(residuals)),
        "residual_largest": float(residuals.max()),
        "iterations": int(max(int(lot["iterations"]) for lot in lots)),
    }
    return ready(system, vectors), told
