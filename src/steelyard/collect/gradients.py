"""Gradients and curvature of a problem: the engine of its learner, and metrics kept in the run folder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError, SettingError
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.factors import Factors
from steelyard.gradients.fisher import Fisher, HasOutputs, fisher_gradients
from steelyard.gradients.kronecker import (
    KroneckerMetric,
    eigen_blocks,
    fit_bases,
    fit_eigenvalues,
    resolve_damping,
)
from steelyard.gradients.projection import Projection
from steelyard.problem import HasCurvature, HasGradients, Problem, require
from steelyard.records import Examples
from steelyard.run import Run
from steelyard.run.seeds import stream

_MOST_EXACT_OUTPUTS = 16
Kind = Literal["kfac", "ekfac"]


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


@dataclass(frozen=True)
class Fitted:
    """A fitted model together with its gradients.

    Attributes:
        model: As the learner knows it.
        gradients: The engine at this model.
    """

    model: Any
    gradients: Gradients


def open_gradients(problem: Problem, run: Run, *, method: str, instead: str) -> Fitted:
    """The gradient engine at the explained model; what it had to do differently goes to the run's notes.

    Raises:
        CapabilityError: If the learner has no gradients; names the methods in ``instead``.
    """
    require(problem.learner, HasGradients, method=method, instead=instead)
    return gradients_at(problem, explained(problem, run), run)


def gradients_at(problem: Problem, model: Any, run: Run) -> Fitted:
    """The gradient engine at a given fitted model of the problem's learner."""
    gradients = cast(HasGradients, problem.learner).gradients(model)
    if isinstance(gradients, TorchGradients):
        for note in gradients.notes(problem.train):
            run.note(note)
    return Fitted(model, gradients)


def training_products(problem: Problem, fitted: Fitted, side: Any, rows: slice, run: Run) -> np.ndarray:
    """``float["row query"]`` Products of the training examples in ``rows``, times their training weights."""
    part = problem.train.take(rows)
    run.spend(gradients=len(part))
    return fitted.gradients.products(part, side) * part.weights()[:, None]


@dataclass(frozen=True, eq=False)
class FittedMetric:
    """A damped inverse curvature, and what its ``"auto"`` settings became.

    Attributes:
        metric: To hand to ``Gradients.prepare`` or ``self_products``.
        resolved: Plain values for the record.
    """

    metric: KroneckerMetric
    resolved: Mapping[str, Any]


def kronecker_metric(
    problem: Problem, fitted: Fitted, run: Run, *, kind: Kind, fisher: Fisher | Literal["auto"], damping: float | str
) -> FittedMetric:
    """The damped inverse (E)K-FAC curvature of the summed training loss.

    Eigenvectors and eigenvalues are kept in the run folder, without the damping, so that another damping costs
    nothing.

    Cost: K-FAC one, EK-FAC two passes over the training examples, each one forward pass and as many backward
    passes as the model has outputs (exact Fisher) or one (sampled, empirical); one eigendecomposition per side
    and block.

    Args:
        problem: Whose training examples define the curvature.
        fitted: Where to evaluate it.
        run: Where factors are kept.
        kind: ``"kfac"`` or ``"ekfac"``.
        fisher: Which gradients; ``"auto"`` is exact up to 16 outputs, else sampled, else empirical.
        damping: ``"auto"``, or a number added to the eigenvalues of the mean curvature.

    Raises:
        CapabilityError: If the learner's gradients have no layers.
        SettingError: If the loss does not offer the Fisher asked for.
    """
    engine = fitted.gradients
    if not isinstance(engine, TorchGradients):
        raise CapabilityError(
            f"{kind.upper()} needs the layers of a network, which {type(problem.learner).__name__} does not have.",
            fix="use gauss_newton (exact for linear models) or leave_one_out.",
        )
    learner = cast(HasOutputs, problem.learner)
    fisher, why = _resolve_fisher(problem, fitted, fisher)
    weights = problem.train.weights()
    seed = stream(problem.seed, "fisher")
    key = f"curvature/{fisher}-{problem.seed}"

    def captured(what: str):  # noqa: ANN202 - an iterator factory, typed in kronecker.Captured
        def gradients() -> Iterator[tuple[bool, dict[str, Factors]]]:
            with run.progress(what, len(problem.train)) as progress:
                for first, found in fisher_gradients(
                    engine, learner, problem.train, kind=fisher, weights=weights, seed=seed
                ):
                    count = len(next(iter(found.values())))
                    run.spend(gradients=count if first else count * 2 / 3)
                    if first:
                        progress.advance(count)
                    yield first, found

        return gradients

    arrays = dict(run.keep(f"{key}/bases", lambda: fit_bases(captured("covariances"))))
    if kind == "ekfac":
        arrays |= run.keep(f"{key}/eigenvalues", lambda: fit_eigenvalues(captured("eigenvalues"), arrays))
    blocks = eigen_blocks(arrays, kind)
    resolved_damping, reason = resolve_damping(blocks, damping)
    decay = _decay(problem, fitted)
    metric = KroneckerMetric(blocks, resolved_damping, decay, float(len(problem.train)))
    resolved = {
        "fisher": fisher,
        "fisher_reason": why,
        "damping": resolved_damping,
        "damping_reason": reason,
        "l2": decay,
    }
    return FittedMetric(metric, resolved)


@runtime_checkable
class _Regularised(Protocol):
    def regularisation(self, fitted: Any) -> float: ...


def _decay(problem: Problem, fitted: Fitted) -> float:
    learner = problem.learner
    return float(learner.regularisation(fitted.model)) if isinstance(learner, _Regularised) else 0.0


def _resolve_fisher(
    problem: Problem, fitted: Fitted, fisher: Fisher | Literal["auto"]
) -> tuple[Fisher, str]:
    engine = cast(TorchGradients, fitted.gradients)
    learner = cast(HasOutputs, problem.learner)
    if fisher == "empirical":
        return fisher, "as given"
    batch = next(engine.batches(problem.train.take(slice(0, 2))))
    if fisher in ("auto", "exact"):
        try:
            outputs = learner.output_function(engine.model, batch)
            columns = learner.output_hessian_factor(outputs.detach(), batch).shape[2]
            if fisher == "exact" or columns <= _MOST_EXACT_OUTPUTS:
                return "exact", f"the loss has {columns} outputs per example with known curvature"
        except CapabilityError:
            if fisher == "exact":
                raise
    try:
        drawn = learner.sampled_loss_function(engine.model, batch, torch.Generator().manual_seed(0))
    except CapabilityError:
        drawn = None
    if drawn is not None:
        return "sampled", "labels can be drawn from the model" if fisher == "auto" else "as given"
    if fisher == "sampled":
        raise SettingError(
            "fisher='sampled', but labels cannot be drawn from a model with this loss.",
            fix="use fisher='empirical', a named loss, or tell the loss how to draw labels.",
        )
    run_note = "the loss is a function without a known predictive distribution"
    return "empirical", run_note


def dense_gradients(
    problem: Problem, fitted: Fitted, examples: Examples, of: Literal["loss", "measurement"]
) -> Float[np.ndarray, "example param"]:
    """Full gradients in float64, whatever the model's own number type."""
    engine = fitted.gradients
    if isinstance(engine, TorchGradients):
        engine = TorchGradients(cast(Any, problem.learner), fitted.model, dtype=torch.float64)
    return np.asarray(engine.dense(examples, of), dtype=np.float64)


def exact_curvature(problem: Problem, fitted: Fitted, run: Run, *, method: str) -> Float[np.ndarray, "param param"]:
    """The curvature of the summed weighted training objective, whole, in float64; kept in the run folder.

    Raises:
        CapabilityError: If the learner has none; names alternatives.
    """
    learner = require(problem.learner, HasCurvature, method=method, instead="ekfac or leave_one_out")

    def compute() -> dict[str, np.ndarray]:
        run.spend(gradients=len(problem.train))
        return {"hessian": learner.hessian(fitted.model, problem.train, problem.train.weights())}

    return np.asarray(run.keep(f"curvature/exact-{problem.seed}", compute)["hessian"])
