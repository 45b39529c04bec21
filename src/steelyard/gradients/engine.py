"""Per-example gradients of one fitted torch model: dot products, norms, features and full rows.

One forward and one backward pass per batch give the factors of every tapped layer (``taps.py``); a parameter that
no tap covers is broadcast over the batch where that is correct, and goes through ``torch.func`` where it is not.
Which of the three serves a parameter is *tested* when the engine is made: the gradients of a few examples must
equal those of each example alone. So a model that uses a layer's weight behind its back, runs sequence-first or
shares weights gets correct gradients, and the record names what was slower than it could be.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from steelyard.gradients.coverage import Coverage, cover, split_matrix, split_rows
from steelyard.gradients.factors import (
    Factors,
    Lookup,
    Outer,
    Rows,
    flat,
    full_dot,
    ghost_dot,
    ghost_is_cheaper,
    squared_norms,
)
from steelyard.gradients.fallback import Batch, Function
from steelyard.gradients.kronecker import KroneckerMetric
from steelyard.gradients.passes import check_finite, functional_factors, length, one_pass, paused
from steelyard.gradients.projection import BlockProjector, block_projector
from steelyard.gradients.signs import Projection
from steelyard.gradients.taps import recording
from steelyard.records import Examples

Of = Literal["loss", "measurement"]
_BATCH_BYTES = 128 * 2**20
_LARGEST_BATCH = 4096
_PROBE = 3


@runtime_checkable
class Differentiable(Protocol):
    """What the engine asks of a learner; ``learners.torch.Torch`` offers it."""

    @property
    def measurement(self) -> object:
        """What is measured on queries; tells whether lower is better."""
        ...

    def load(self, fitted: Any) -> nn.Module:
        """The model with the fitted parameters, in evaluation mode."""
        ...

    def batches(self, examples: Examples, size: int) -> Iterator[Batch]:
        """Batches of tensors, in order."""
        ...

    def loss_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` training losses, unreduced."""
        ...

    def measurement_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` query measurements."""
        ...


@dataclass(frozen=True, eq=False)
class QuerySide:
    """Query gradients made ready for dot products with training gradients.

    Attributes:
        blocks: Per block the factors, or full rows where those are cheaper or a metric was applied.
        count: Number of queries.
    """

    blocks: Mapping[str, Factors]
    count: int


class TorchGradients:
    """The gradient engine at one fitted model.

    Gradients are of each example's own value (loss or measurement), summed over its tokens as the user's
    function sums them, without regularisation and without weights. Sums over examples are the caller's.

    Args:
        learner: Gives the model, batches and functions.
        fitted: The fitted model to differentiate at.
        dtype: Compute in this number type instead of the model's own; ``float64`` for references.
        batch_size: Examples per pass; chosen so that factors take about 128 MiB if None.
    """

    def __init__(
        self,
        learner: Differentiable,
        fitted: object,
        *,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
    ) -> None:
        self._learner = learner
        self._fitted = fitted
        model = learner.load(fitted)
        if dtype is not None:
            model = copy.deepcopy(model).to(dtype)
        self.model = model
        self._dtype = dtype
        self._batch_size = batch_size
        self._coverage: Coverage | None = None
        self._projectors: dict[Projection, dict[str, BlockProjector]] = {}
        self.names = tuple(name for name, p in model.named_parameters() if p.requires_grad)

    @property
    def size(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def widened(self) -> "TorchGradients":
        """The same gradients, computed in float64 throughout."""
        return TorchGradients(self._learner, self._fitted, dtype=torch.float64)

    def notes(self, examples: Examples) -> tuple[str, ...]:
        """Fallbacks and handled cases, in words."""
        return self.coverage(examples).notes

    def coverage(self, examples: Examples) -> Coverage:
        """Which parameter is served by what, tested on up to three of the examples the first time."""
        if self._coverage is None:
            batch = next(self._raw_batches(examples, min(_PROBE, len(examples))))
            self._coverage = cover(self.model, self._learner.loss_function, batch)
            if self._batch_size is None:
                self._batch_size = self._choose_batch_size(batch)
        return self._coverage

    def capture(self, examples: Examples, of: Of) -> Iterator[dict[str, Factors]]:
        """Factors of every block, batch by batch.

        Cost: one forward and one backward pass of activations per batch, plus one vectorised pass for
        parameters that fall back.

        Args:
            examples: In order.
            of: ``"loss"`` for training gradients, ``"measurement"`` for query gradients.

        Raises:
            NumericsError: If a value is NaN or infinite; names the example.
        """
        function = self._learner.loss_function if of == "loss" else self._learner.measurement_function
        yield from self.capture_function(examples, function)

    def capture_function(self, examples: Examples, function: Function) -> Iterator[dict[str, Factors]]:
        """The same for any function of model and batch that gives one value per example."""
        coverage = self.coverage(examples)
        start = 0
        with recording(self.model, coverage.blocks, coverage.broadcast) as recorder:
            for batch in self._raw_batches(examples, self._batch_size or 1):
                count = length(batch)
                values = one_pass(recorder, self.model, function, batch)
                check_finite(values, examples, start)
                found = recorder.factors()
                if coverage.functional:
                    with paused(recorder):
                        found.update(functional_factors(self.model, function, batch, coverage.functional))
                yield found
                start += count

    def prepare(
        self, queries: Examples, metric: KroneckerMetric | None = None, *, unit_norm: bool = False
    ) -> QuerySide:
        """Query gradients ready for :meth:`products`.

        The sign is such that a positive product means that removing the training example makes the
        measurement worse: gradients of measurements that should be high are negated.

        Args:
            queries: The queries.
            metric: Applied to the query side once, if given: products are then ``g_i^T M g_q``.
            unit_norm: Scale every query gradient to length one (in the Euclidean norm).
        """
        sign = 1.0 if getattr(self._learner.measurement, "lower_is_better", True) else -1.0
        parts: dict[str, list[Factors]] = {}
        for found in self.capture(queries, "measurement"):
            scale = torch.full((_count(found),), sign)
            if unit_norm:
                scale = scale / torch.stack([squared_norms(f).cpu() for f in found.values()]).sum(0).sqrt()
            for name, factors in found.items():
                signed = scaled(factors, scale)
                if metric is not None:
                    signed = Rows(metric.apply(name, signed).flatten(1))
                parts.setdefault(name, []).append(signed)
        blocks = {name: _concatenate(pieces) for name, pieces in parts.items()}
        return QuerySide(blocks, len(queries))

    def products(self, examples: Examples, side: QuerySide) -> Float[np.ndarray, "example query"]:
        """``g_i^T M g_q`` for every training example and query.

        Cost: one capture of the examples; then per block the cheaper of products from factors and products
        from full gradients.
        """
        pieces: list[Tensor] = []
        ready = dict(side.blocks)
        for found in self.capture(examples, "loss"):
            total = torch.zeros(_count(found), side.count)
            for name, factors in found.items():
                other = ready.get(name)
                if other is not None:
                    product, ready[name] = _dot(factors, other)
                    total = product if total is None else total.to(product).add_(product)
            pieces.append(total.cpu())
        return torch.cat(pieces).numpy()

    def norms(self, examples: Examples) -> Float[np.ndarray, " example"]:
        """Euclidean length of every training gradient."""
        return np.sqrt(self.self_products(examples))

    def self_products(
        self, examples: Examples, metric: KroneckerMetric | None = None
    ) -> Float[np.ndarray, " example"]:
        """``g_i^T M g_i`` of every training example; the squared length without a metric."""
        pieces: list[Tensor] = []
        for found in self.capture(examples, "loss"):
            total = torch.zeros(_count(found), dtype=torch.float64)
            for name, factors in found.items():
                total += (squared_norms(factors) if metric is None else metric.quadratic(name, factors)).cpu()
            pieces.append(total)
        return torch.cat(pieces).numpy()

    def features(
        self, examples: Examples, projection: Projection, of: Of = "loss"
    ) -> Float[np.ndarray, "example feature"]:
        """Projected gradients: dot products of features estimate dot products of gradients without bias.

        Dense projections of the blocks are added up; two-sided ones stand side by side.
        """
        out = torch.empty(0)
        done = 0
        for found in self.capture(examples, of):
            parts = [(self._projector(projection, name, found[name]), found[name]) for name in sorted(found)]
            dense = projection.kind == "dense"
            if not done:
                width = parts[0][0].width if dense else sum(projector.width for projector, _ in parts)
                out = torch.empty(len(examples), width, dtype=_dtype(parts[0][1]))
            rows = out[done : done + _count(found)]
            done += len(rows)
            if dense:
                rows.copy_(torch.stack([projector(factors) for projector, factors in parts]).sum(0))
                continue
            column = 0
            for projector, factors in parts:
                projector.write(factors, rows[:, column : column + projector.width])
                column += projector.width
        return out.numpy()

    def _projector(self, projection: Projection, name: str, factors: Factors) -> BlockProjector:
        known = self._projectors.setdefault(projection, {})
        if name not in known:
            like = factors.values if isinstance(factors, Rows) else factors.grads
            known[name] = block_projector(projection, factors.shape, name=name, like=like)
        return known[name]

    def dense(self, examples: Examples, of: Of = "loss") -> Float[np.ndarray, "example param"]:
        """Full gradients, parameters in the order of ``names``, each flattened row-major.

        Memory: examples times parameters.
        """
        return torch.cat([self.rows(found) for found in self.capture(examples, of)]).cpu().numpy()

    def rows(self, found: Mapping[str, Factors]) -> Float[Tensor, "example param"]:
        """One captured batch as full gradients, parameters in the order of ``names``."""
        by_parameter: dict[str, Tensor] = {}
        count = _count(found)
        blocks = {block.name: block for block in (self._coverage.blocks if self._coverage else ())}
        for name, factors in found.items():
            if name in blocks and isinstance(factors, Outer | Lookup):
                by_parameter.update(split_matrix(blocks[name], factors.full()))
            elif name in blocks:
                by_parameter.update(split_rows(blocks[name], factors, self.model))
            else:
                by_parameter[name] = flat(factors)
        parameters = dict(self.model.named_parameters())
        parts = [
            by_parameter[name]
            if name in by_parameter
            else parameters[name].new_zeros(count, parameters[name].numel())
            for name in self.names
        ]
        return torch.cat(parts, 1)

    def batches(self, examples: Examples) -> Iterator[Batch]:
        """Batches as :meth:`capture` takes them."""
        self.coverage(examples)
        yield from self._raw_batches(examples, self._batch_size or 1)

    def _raw_batches(self, examples: Examples, size: int) -> Iterator[Batch]:
        for batch in self._learner.batches(examples, size):
            if self._dtype is None:
                yield batch
            else:
                yield {key: t.to(self._dtype) if t.is_floating_point() else t for key, t in batch.items()}

    def _choose_batch_size(self, batch: Batch) -> int:
        coverage = self._coverage
        if coverage is None:
            return 1
        with recording(self.model, coverage.blocks, coverage.broadcast) as recorder:
            one_pass(recorder, self.model, self._learner.loss_function, batch)
            found = recorder.factors()
        numbers = sum(t.numel() for f in found.values() for t in vars(f).values() if isinstance(t, Tensor))
        return int(min(_LARGEST_BATCH, max(1, _BATCH_BYTES // max(1, 8 * numbers // length(batch)))))


def _count(found: Mapping[str, Factors]) -> int:
    return len(next(iter(found.values())))


def scaled(factors: Factors, scale: Tensor) -> Factors:
    """Every example's gradient times its own number."""
    if isinstance(factors, Rows):
        return Rows(factors.values * scale.to(factors.values)[:, None])
    grads = factors.grads * scale.to(factors.grads)[:, None, None]
    if isinstance(factors, Lookup):
        return Lookup(factors.index, grads, factors.rows)
    return replace(factors, grads=grads)


def _concatenate(pieces: Sequence[Factors]) -> Factors:
    first = pieces[0]
    if len(pieces) == 1:
        return first
    samelength = len({p.grads.shape[1] for p in pieces if not isinstance(p, Rows)}) <= 1
    if isinstance(first, Rows) or not samelength:
        return Rows(torch.cat([flat(piece) for piece in pieces]))
    grads = torch.cat([p.grads for p in pieces if not isinstance(p, Rows)])
    if isinstance(first, Lookup):
        return Lookup(torch.cat([p.index for p in pieces if isinstance(p, Lookup)]), grads, first.rows)
    return replace(first, raw=torch.cat([p.raw for p in pieces if isinstance(p, Outer)]), grads=grads)


def _dot(factors: Factors, other: Factors) -> tuple[Tensor, Factors]:
    """Products with the query side, and the query side in the form to use from now on."""
    if not isinstance(other, Rows):
        if ghost_is_cheaper(factors, other):
            return ghost_dot(factors, other), other
        rows = Rows(flat(other))
        return full_dot(factors, rows.values), other if isinstance(other, Lookup) else rows
    return full_dot(factors, other.values), other


def _dtype(factors: Factors) -> torch.dtype:
    return factors.values.dtype if isinstance(factors, Rows) else factors.grads.dtype
