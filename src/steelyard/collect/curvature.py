"""Kronecker-factored curvature of a problem, kept in the run folder: K-FAC, EK-FAC, tK-FAC, Shampoo."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int

from steelyard.collect.gradients import Fitted, present_examples
from steelyard.errors import CapabilityError, SettingError
from steelyard.gradients.damping import HeldOut, held_out_damping, resolve_damping
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.factorisations import LARGEST_SIDE, Family
from steelyard.gradients.fisher import Fisher, HasOutputs, fisher_gradients
from steelyard.gradients.kronecker import (
    EigenBlock,
    KroneckerMetric,
    Weighted,
    eigen_blocks,
    fit_bases,
    fit_eigenvalues,
    mean_squares,
)
from steelyard.problem import HasLengths, Problem
from steelyard.records import Examples
from steelyard.run import Run
from steelyard.run.seeds import stream

_MOST_EXACT_OUTPUTS = 16
_KEPT_BYTES = 256 * 2**20  # of gradients that are needed twice
_HELD_OUT = 5  # one example in so many
Kind = Literal["kfac", "ekfac", "tkfac", "shampoo", "eshampoo", "rootshampoo"]


@dataclass(frozen=True, eq=False)
class FittedBlocks:
    """Undamped curvature per block, a mean over the examples, and what its ``"auto"`` settings became.

    Attributes:
        blocks: Eigenvectors and eigenvalues.
        resolved: Plain values for the record.
    """

    blocks: Mapping[str, EigenBlock]
    resolved: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class FittedMetric:
    """A damped inverse curvature, and what its ``"auto"`` settings became.

    Attributes:
        metric: To hand to ``Gradients.prepare`` or ``self_products``.
        resolved: Plain values for the record.
    """

    metric: KroneckerMetric
    resolved: Mapping[str, Any]


def kronecker_arrays(  # noqa: PLR0913 - where, of what and how are three facts each
    problem: Problem,
    fitted: Fitted,
    run: Run,
    *,
    kind: Kind,
    fisher: Fisher | Literal["auto"] = "auto",
    point: str = "",
    examples: Examples | None = None,
    only: Callable[[str], bool] | None = None,
) -> FittedBlocks:
    """The curvature of the mean training loss at any fitted model, without damping and without penalty.

    Eigenvectors and eigenvalues are kept in the run folder, so that another damping costs nothing.

    Cost: one pass over the examples, two with corrected eigenvalues (``"ekfac"``, ``"eshampoo"``) unless the
    gradients' factors of all examples take at most 256 MiB, which are then kept for the second. Each pass is one
    forward pass and as many backward passes as the model has outputs (exact Fisher) or one (sampled, empirical);
    one eigendecomposition per side and block.

    Args:
        problem: Whose training examples define the curvature.
        fitted: Where to evaluate it.
        run: Where factors are kept.
        kind: Which factorisation. ``"ekfac"`` and ``"eshampoo"`` have corrected eigenvalues, ``"rootshampoo"``
            the square roots of Shampoo's.
        fisher: Which gradients; ``"auto"`` is exact up to 16 outputs, else sampled, else empirical.
        point: Names the fitted model within the run where it is not the explained one: ``"step-00300"``. Part
            of the key that results are kept under.
        examples: Instead of all training examples whose weight is not 0; ``point`` must name them too.
        only: Which blocks, by name, instead of all; ``point`` must tell them too.

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
    fisher, why = resolve_fisher(problem, fitted, fisher)
    train = present_examples(problem) if examples is None else examples
    key = f"curvature/{fisher}-{problem.mark()}{'-' if point else ''}{point}"
    family, corrected = _FAMILIES[kind]
    prefix = "" if family == "kfac" else f"{family}-"

    def batches(what: str) -> Iterator[Weighted]:
        found = _fisher_batches(problem, fitted, train, fisher, what)
        return found if only is None else _of_blocks(found, only)

    captured = _Twice(batches) if corrected else batches
    arrays = dict(
        run.keep(f"{key}/{prefix}bases", lambda: fit_bases(lambda: captured("covariances"), family))
    )
    if corrected:
        arrays |= run.keep(
            f"{key}/{prefix}eigenvalues",
            lambda: fit_eigenvalues(lambda: captured("eigenvalues"), arrays, family),
        )
    blocks = eigen_blocks(arrays, f"e{family}" if corrected else family)
    if kind == "rootshampoo":
        blocks = {name: _rooted(block) for name, block in blocks.items()}
    return FittedBlocks(blocks, {"fisher": fisher, "fisher_reason": why} | _diagonal_sides(blocks))


def _of_blocks(batches: Iterator[Weighted], only: Callable[[str], bool]) -> Iterator[Weighted]:
    for batch in batches:
        yield replace(batch, factors={name: f for name, f in batch.factors.items() if only(name)})


class _Twice:
    """Gradients for two passes: the second takes them from memory where they fit, and computes them anew where not.

    Both draw the same labels from the same seed, so the result is the same bit by bit.
    """

    def __init__(self, compute: Callable[[str], Iterator[Weighted]]) -> None:
        self._compute = compute
        self._kept: list[Weighted] = []

    def __call__(self, what: str) -> Iterator[Weighted]:
        if self._kept:
            self._kept.reverse()
            while self._kept:
                yield self._kept.pop()
            return
        kept: list[Weighted] = []
        seen: dict[int, int] = {}  # layers may share what they read
        for batch in self._compute(what):
            if sum(seen.values()) <= _KEPT_BYTES:
                kept.append(batch)
                seen.update(_storages(batch))
            else:
                kept.clear()
            yield batch
        if sum(seen.values()) <= _KEPT_BYTES:
            self._kept = kept


def _storages(batch: Weighted) -> dict[int, int]:
    """Bytes behind the factors, by address."""
    tensors = (t for f in batch.factors.values() for t in vars(f).values() if isinstance(t, torch.Tensor))
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def _diagonal_sides(blocks: Mapping[str, EigenBlock]) -> dict[str, Any]:
    """Which blocks have sides too wide for eigenvectors, for the record; nothing where there are none."""
    wide = [
        f"{name} ({side}: {width:,})"
        for name, block in blocks.items()
        for side, vectors, width in (
            ("rows", block.left, block.values.shape[0]),
            ("columns", block.right, block.values.shape[1]),
        )
        if vectors is None and width > LARGEST_SIDE and block.values.shape[0] > 1
    ]
    return {"diagonal_sides": wide} if wide else {}


_FAMILIES: Mapping[Kind, tuple[Family, bool]] = {
    "kfac": ("kfac", False),
    "ekfac": ("kfac", True),
    "tkfac": ("tkfac", False),
    "shampoo": ("shampoo", False),
    "eshampoo": ("shampoo", True),
    "rootshampoo": ("shampoo", False),
}


def _rooted(block: EigenBlock) -> EigenBlock:
    """Shampoo's own exponents: ``L^(1/2) kron R^(1/2)`` from ``L kron R / trace``, whose sum is that trace."""
    if block.left is None:
        return block
    return EigenBlock(block.left, block.right, (block.values * block.values.sum()).sqrt())


def _fisher_batches(
    problem: Problem, fitted: Fitted, examples: Examples, fisher: Fisher, what: str
) -> Iterator[Weighted]:
    # Sums do not care for the order, and examples of one length need no padding.
    if isinstance(problem.learner, HasLengths):
        examples = examples.take(np.argsort(problem.learner.lengths(examples), kind="stable"))
    run, weights = fitted.run, examples.weights()
    with run.progress(what, len(examples)) as progress:
        for batch in fisher_gradients(
            cast(TorchGradients, fitted.gradients),
            cast(HasOutputs, problem.learner),
            examples,
            kind=fisher,
            weights=None if bool((weights == 1).all()) else weights,
            seed=stream(problem.seed, "fisher"),
        ):
            # A further backward pass through a graph that exists costs two thirds of a gradient.
            run.spend(gradients=len(batch) * (1 if batch.first else 2 / 3))
            if batch.first:
                progress.advance(len(batch))
            yield batch


def kronecker_metric(
    problem: Problem,
    fitted: Fitted,
    run: Run,
    *,
    kind: Kind,
    fisher: Fisher | Literal["auto"],
    damping: float | int | str,
) -> FittedMetric:
    """The damped inverse Kronecker-factored curvature of the summed training loss.

    Cost: that of :func:`kronecker_arrays`; with ``damping="heldout"`` about as much again.

    Args:
        problem: Whose training examples define the curvature.
        fitted: Where to evaluate it.
        run: Where factors are kept.
        kind: Which factorisation, see :func:`kronecker_arrays`.
        fisher: Which gradients; ``"auto"`` is exact up to 16 outputs, else sampled, else empirical.
        damping: ``"auto"``, ``"heldout"``, or a number added to the eigenvalues of the mean curvature.

    Raises:
        CapabilityError: If the learner's gradients have no layers.
        SettingError: If the loss does not offer the Fisher asked for, or there is too little to hold out.
    """
    found = kronecker_arrays(problem, fitted, run, kind=kind, fisher=fisher)
    decay = penalty(problem, fitted)
    if damping == "heldout":
        choice = _held_out(problem, fitted, run, kind, found.resolved["fisher"])
        chosen: dict[str, float] = dict(choice.damping)
        reason = f"likeliest for gradients of every {_HELD_OUT}th training example, held out"
        tried = {
            "multiple_of_mean_eigenvalue": choice.multiples.tolist(),
            "log_likelihood_per_direction": choice.curve.tolist(),
            "log_likelihood_of_choice": choice.best,
        }
    else:
        chosen, reason = resolve_damping(found.blocks, damping)
        tried = {}
    metric = KroneckerMetric(found.blocks, chosen, decay, float(len(present_examples(problem))))
    resolved = {**found.resolved, "damping": chosen, "damping_reason": reason, "l2": decay}
    return FittedMetric(metric, resolved | ({"damping_curve": tried} if tried else {}))


def _held_out(problem: Problem, fitted: Fitted, run: Run, kind: Kind, fisher: Fisher) -> HeldOut:
    """Curvature of four fifths of the examples, judged by the gradients of the rest; the parts depend on ids."""
    train = present_examples(problem)
    rest, kept_out = hold_out(train)
    seen, held = train.take(rest), train.take(kept_out)
    found = kronecker_arrays(
        problem, fitted, run, kind=kind, fisher=fisher, point="four-fifths", examples=seen
    )

    def compute() -> dict[str, np.ndarray]:
        gradients = functools.partial(_fisher_batches, problem, fitted, held, fisher, "held-out gradients")
        return mean_squares(gradients, found.blocks)

    key = f"curvature/{fisher}-{problem.mark()}-held-out/{kind}"
    return held_out_damping(found.blocks, run.keep(key, compute), penalty(problem, fitted))


def hold_out(train: Examples) -> tuple[Int[np.ndarray, " seen"], Int[np.ndarray, " held"]]:
    """Rows of four fifths of the examples, and of the rest; which is which depends on the ids alone.

    Raises:
        SettingError: If there are fewer than ten.
    """
    if len(train) < 2 * _HELD_OUT:
        raise SettingError(
            f"damping='heldout' holds out a fifth of the training examples, but there are only {len(train)}.",
            fix="use damping='auto' or a number.",
        )
    order = np.argsort([hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in train.ids])
    cut = len(train) // _HELD_OUT
    return np.sort(order[cut:]), np.sort(order[:cut])


@runtime_checkable
class _Regularised(Protocol):
    def regularisation(self, fitted: Any) -> float: ...


def penalty(problem: Problem, fitted: Fitted) -> float:
    """Coefficient of ``|parameters|^2 / 2`` in the mean training loss; 0 where the learner knows of none."""
    learner = problem.learner
    return float(learner.regularisation(fitted.model)) if isinstance(learner, _Regularised) else 0.0


def resolve_fisher(problem: Problem, fitted: Fitted, fisher: Fisher | Literal["auto"]) -> tuple[Fisher, str]:
    """Which gradients the curvature is made of, and why: the first of exact, sampled and empirical that there is."""
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
    return "empirical", "the loss is a function without a known predictive distribution"
