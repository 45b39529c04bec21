"""Per-example gradients of one fitted torch model: dot products, norms, features and full rows.

One forward and one backward pass per batch give the factors of every tapped layer (``taps.py``); a parameter that
no tap covers is broadcast over the batch where that is correct, and goes through ``torch.func`` where it is not.
Which of the three serves a parameter is *tested* when the engine is made: the gradients of a few examples must
equal those of each example alone. So a model that uses a layer's weight behind its back, runs sequence-first or
shares weights gets correct gradients, and the record names what was slower than it could be.
"""

import copy
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from steelyard.errors import SettingError
from steelyard.gradients.batching import Positions, Room, by_length, in_order, measured_room, restoring
from steelyard.gradients.coverage import Coverage, cover, split_matrix, split_rows
from steelyard.gradients.factors import Factors, Lookup, Outer, Rows, flat, squared_norms
from steelyard.gradients.fallback import Batch, Function
from steelyard.gradients.heap import heap
from steelyard.gradients.kronecker import KroneckerMetric
from steelyard.gradients.parts import By, Heads, Split
from steelyard.gradients.passes import check_finite, functional_factors, length, one_pass, paused
from steelyard.gradients.projection import Projector, block_projector
from steelyard.gradients.queries import Gathered, dot, scaled
from steelyard.gradients.queries import QuerySide as QuerySide
from steelyard.gradients.signs import Projection
from steelyard.gradients.splits import heads_of, split_by_parameters, split_by_token
from steelyard.gradients.taps import recording
from steelyard.problem import HasLengths
from steelyard.records import Examples

Of = Literal["loss", "measurement"]
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


class TorchGradients:
    """The gradient engine at one fitted model.

    Gradients are of each example's own value (loss or measurement), summed over its tokens as the user's
    function sums them, without regularisation and without weights. Sums over examples are the caller's.

    Args:
        learner: Gives the model, batches and functions.
        fitted: The fitted model to differentiate at.
        dtype: Compute in this number type instead of the model's own; ``float64`` for references.
        batch_size: Examples per pass. None: as many as fit into a working set that is measured on the first
            examples: about 1 GiB for sequences whose lengths the learner tells, batched by padded tokens; else
            about 128 MiB of factors. One example that needs more goes alone.
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
        self._room = Room()
        self._counted: WeakKeyDictionary[Examples, np.ndarray] = WeakKeyDictionary()
        self._projectors: dict[Projection, dict[str, Projector]] = {}
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
            self._room = (
                measured_room(
                    self.model, self._learner.loss_function, batch, self._coverage, self._lengths(examples)
                )
                if self._batch_size is None
                else Room(self._batch_size, sys.maxsize)
            )
        return self._coverage

    def capture(self, examples: Examples, of: Of) -> Iterator[dict[str, Factors]]:
        """Factors of every block, batch by batch, examples in order.

        Cost: one forward and one backward pass of activations per batch, plus one vectorised pass for
        parameters that fall back.

        Args:
            examples: In order.
            of: ``"loss"`` for training gradients, ``"measurement"`` for query gradients.

        Raises:
            NumericsError: If a value is NaN or infinite; names the example.
        """
        yield from self.capture_function(examples, self._function(of))

    def capture_function(self, examples: Examples, function: Function) -> Iterator[dict[str, Factors]]:
        """The same for any function of model and batch that gives one value per example."""
        for _, found in self._passes(examples, function, sort=False):
            yield found

    def _function(self, of: Of) -> Function:
        return self._learner.loss_function if of == "loss" else self._learner.measurement_function

    def _passes(
        self, examples: Examples, function: Function, *, sort: bool
    ) -> Iterator[tuple[Positions, dict[str, Factors]]]:
        """Batches as positions in ``examples`` and factors; out of order where ``sort`` saves padding."""
        coverage = self.coverage(examples)
        with recording(self.model, coverage.blocks, coverage.broadcast) as recorder:
            for rows, batch in self._batches(examples, sort=sort):
                heap().look()
                values = one_pass(recorder, self.model, function, batch)
                check_finite(values, examples, rows)
                found = recorder.factors()
                if coverage.functional:
                    with paused(recorder):
                        found.update(functional_factors(self.model, function, batch, coverage.functional))
                yield rows, found

    def prepare(
        self,
        queries: Examples,
        metric: KroneckerMetric | None = None,
        *,
        unit_norm: bool = False,
        rank: int | None = None,
    ) -> QuerySide:
        """Query gradients ready for :meth:`products`.

        The sign is such that a positive product means that removing the training example makes the
        measurement worse: gradients of measurements that should be high are negated.

        Args:
            queries: The queries.
            metric: Applied to the query side once, if given: products are then ``g_i^T M g_q``.
            unit_norm: Scale every query gradient to length one (in the Euclidean norm).
            rank: Keep only so many singular vectors per query and block, which takes rank (rows + columns)
                numbers in place of rows times columns; whole gradients if None. Blocks that would not
                become smaller stay whole.

        Raises:
            SettingError: If ``rank`` is below 1.
        """
        if rank is not None and rank < 1:
            raise SettingError(
                f"rank={rank} of query gradients.", fix="give 1 or more, or None for all of it."
            )
        sign = 1.0 if getattr(self._learner.measurement, "lower_is_better", True) else -1.0
        gathered = Gathered(rank)
        order: list[Positions] = []
        for rows, found in self._passes(queries, self._learner.measurement_function, sort=True):
            scale = torch.full((_count(found),), sign)
            if unit_norm:
                scale = scale / torch.stack([squared_norms(f).cpu() for f in found.values()]).sum(0).sqrt()
            signed = {name: scaled(factors, scale) for name, factors in found.items()}
            matrices = {} if metric is None else {name: metric.apply(name, f) for name, f in signed.items()}
            gathered.add(signed, matrices)
            order.append(rows)
        return gathered.side(restoring(order, len(queries)))

    def products(self, examples: Examples, side: QuerySide) -> Float[np.ndarray, "example query"]:
        """``g_i^T M g_q`` for every training example and query.

        Cost: one capture of the examples; then per block the cheaper of products from factors and products
        from full gradients.
        """
        return self._products(examples, side, squares=False)[0]

    def products_and_squares(
        self, examples: Examples, side: QuerySide
    ) -> tuple[Float[np.ndarray, "example query"], Float[np.ndarray, " example"]]:
        """The same, and the squared Euclidean length of every training gradient, from one capture."""
        return self._products(examples, side, squares=True)

    def _products(
        self, examples: Examples, side: QuerySide, *, squares: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        out, sizes = np.zeros((0, side.count), np.float32), np.zeros(len(examples))
        ready = dict(side.blocks)
        for rows, found in self._passes(examples, self._learner.loss_function, sort=True):
            total = torch.zeros(_count(found), side.count)
            for name, factors in found.items():
                other = ready.get(name)
                if other is not None:
                    product, ready[name] = dot(factors, other, compact=name in side.compact)
                    # Sums of products in half precision are kept in float32.
                    total = total.to(product.device, torch.promote_types(total.dtype, product.dtype)).add_(
                        product
                    )
            if squares:
                sizes[rows] = (
                    torch.stack([squared_norms(f).cpu().double() for f in found.values()]).sum(0).numpy()
                )
            values = total.cpu().numpy()
            out = out if len(out) else np.empty((len(examples), side.count), values.dtype)
            out[rows] = values
        return out, sizes

    def products_by(
        self, examples: Examples, side: QuerySide, by: By, *, heads: Heads | None = None
    ) -> Split:
        """The same products, taken apart; parts and rest sum to the whole.

        Cost: one capture of the examples; by token, per token and query one pass over the query's gradient:
        meant for the pairs that somebody looks at.

        Args:
            examples: Training examples.
            side: The queries.
            by: ``"token"``: position by position of the training example. ``"module"``: layer by layer of the
                network as named, the halves of an adapter together. ``"layer"``: numbered layers.
                ``"head"``: attention heads.
            heads: How many heads there are, for ``"head"``; found in the model's configuration if None.

        Raises:
            CapabilityError: If the heads are not known.
        """
        passes = self._passes(examples, self._learner.loss_function, sort=True)
        if by == "token":
            return split_by_token(passes, side, len(examples), self._lengths(examples))
        return split_by_parameters(
            passes, side, len(examples), by, (heads or heads_of(self.model)) if by == "head" else None
        )

    def self_products(
        self, examples: Examples, metric: KroneckerMetric | None = None
    ) -> Float[np.ndarray, " example"]:
        """``g_i^T M g_i`` of every training example; the squared length without a metric."""
        out = np.zeros(len(examples))
        for rows, found in self._passes(examples, self._learner.loss_function, sort=True):
            total = torch.zeros(_count(found), dtype=torch.float64)
            for name, factors in found.items():
                total += (squared_norms(factors) if metric is None else metric.quadratic(name, factors)).cpu()
            out[rows] = total.numpy()
        return out

    def features(
        self, examples: Examples, projection: Projection, of: Of = "loss"
    ) -> Float[np.ndarray, "example feature"]:
        """Projected gradients: dot products of features estimate dot products of gradients without bias.

        Dense projections of the blocks are added up; two-sided ones stand side by side.
        """
        out = torch.empty(0)
        for positions, found in self._passes(examples, self._function(of), sort=True):
            parts = [(self._projector(projection, name, found[name]), found[name]) for name in sorted(found)]
            dense = projection.kind == "dense"
            if not len(out):
                width = parts[0][0].width if dense else sum(projector.width for projector, _ in parts)
                out = torch.empty(
                    len(examples), width, dtype=torch.promote_types(_dtype(parts[0][1]), torch.float32)
                )
            if dense:
                out[positions] = (
                    torch.stack([projector(factors) for projector, factors in parts]).sum(0).to(out)
                )
                continue
            straight = isinstance(positions, slice)
            rows = out[positions] if straight else out.new_empty(_count(found), out.shape[1])
            column = 0
            for projector, factors in parts:
                projector.write(factors, rows[:, column : column + projector.width])
                column += projector.width
            if not straight:
                out[positions] = rows
        return out.numpy()

    def _projector(self, projection: Projection, name: str, factors: Factors) -> Projector:
        known = self._projectors.setdefault(projection, {})
        if name not in known:
            like = factors.values if isinstance(factors, Rows) else factors.grads
            known[name] = block_projector(projection, factors.shape, name=name, like=like)
        return known[name]

    def dense(self, examples: Examples, of: Of = "loss") -> Float[np.ndarray, "example param"]:
        """Full gradients, parameters in the order of ``names``, each flattened row-major.

        Memory: examples times parameters.
        """
        rows = torch.cat([self.rows(found) for found in self.capture(examples, of)]).cpu()
        return rows.to(torch.promote_types(rows.dtype, torch.float32)).numpy()

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
        for _, batch in self._batches(examples, sort=False):
            yield batch

    def room(self, examples: Examples) -> Room:
        """How much one pass holds; measured on the first examples seen."""
        self.coverage(examples)
        return self._room

    def _batches(self, examples: Examples, *, sort: bool) -> Iterator[tuple[Positions, Batch]]:
        lengths, room = self._lengths(examples), self._room
        if lengths is None or room.tokens is None:
            start = 0
            for batch in self._raw_batches(examples, room.examples):
                yield slice(start, start + length(batch)), batch
                start += length(batch)
            return
        for rows in (by_length if sort else in_order)(lengths, room):
            part = examples.take(rows)
            yield rows, next(self._raw_batches(part, len(part)))

    def _lengths(self, examples: Examples) -> np.ndarray | None:
        if not isinstance(self._learner, HasLengths):
            return None
        if examples not in self._counted:
            self._counted[examples] = np.asarray(self._learner.lengths(examples), dtype=np.int64)
        return self._counted[examples]

    def _raw_batches(self, examples: Examples, size: int) -> Iterator[Batch]:
        for batch in self._learner.batches(examples, size):
            if self._dtype is None:
                yield batch
            else:
                yield {key: t.to(self._dtype) if t.is_floating_point() else t for key, t in batch.items()}


def _count(found: Mapping[str, Factors]) -> int:
    return len(next(iter(found.values())))


def _dtype(factors: Factors) -> torch.dtype:
    return factors.values.dtype if isinstance(factors, Rows) else factors.grads.dtype
