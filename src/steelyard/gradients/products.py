"""Products of vectors with the curvature of the training loss, without ever forming it; many vectors at once.

* ``"gauss_newton"``: ``J^T H J`` with J the Jacobian of the outputs and H the loss's Hessian in them (Schraudolph
  2002, "Fast Curvature Matrix-Vector Products", section 3). The product with J is the derivative of a vector-Jacobian
  product by its own argument, so it needs no forward-mode rules: any model that can be trained will do.
* ``"hessian"``: the exact Hessian of the training loss by double backward (Pearlmutter 1994). Not positive
  semi-definite away from an optimum.
* ``"fisher"``: the mean outer product of captured gradients: at labels drawn from the model once and for all, or of
  the data where there is no distribution, for losses whose curvature in the outputs is not known; or the exact
  Gauss-Newton matrix again, from one backward pass per output. Alone it can be had layer by layer, without what
  couples the layers, at no further cost.

A vector has the parameters in the order of ``TorchGradients.names``, each flattened.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
import torch.nn.attention
from jaxtyping import Float, Int
from torch import Tensor

from steelyard.gradients.coverage import split_matrix, split_rows
from steelyard.gradients.dense import Curved
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.factors import Rows
from steelyard.gradients.fallback import Batch
from steelyard.gradients.fisher import Fisher, fisher_gradients
from steelyard.gradients.kronecker import KroneckerMetric
from steelyard.gradients.passes import length
from steelyard.gradients.queries import QuerySide
from steelyard.records import Examples

Kind = Literal["gauss_newton", "hessian", "fisher"]
_AT_ONCE_BYTES = 2**28
_GRAPH = 3  # a graph of a graph keeps about three times what the forward pass keeps
_ROW_NUMBERS = 2**25


@runtime_checkable
class HasOutputProducts(Protocol):
    """A learner that multiplies with its loss's Hessian in the outputs, where a factor of it would not fit."""

    def output_hessian_product(self, outputs: Tensor, tangents: Tensor, batch: Batch) -> Tensor:
        """``[vector batch output]`` H u for every vector and example, from ``tangents`` of that shape."""
        ...


@dataclass(frozen=True, eq=False)
class Curvature:
    """The curvature of the *mean* weighted training loss at a fitted model, without penalty or damping.

    Attributes:
        engine: At the fitted model, in the number type to compute in.
        learner: Gives losses, outputs and their curvature.
        examples: Those that the mean is over.
        weights: Weight of each in the loss; None for ones.
        kind: Which curvature, see the module.
        fisher: For ``"fisher"``: which gradients.
        seed: Of drawn labels.
        layers: For ``"fisher"``: positions of the parameters of each block, to leave out what couples blocks.
    """

    engine: TorchGradients
    learner: Curved
    examples: Examples
    weights: Float[np.ndarray, " example"] | None = None
    kind: Kind = "gauss_newton"
    fisher: Fisher = "sampled"
    seed: int = 0
    layers: tuple[Tensor, ...] | None = None

    def of(self, rows: Int[np.ndarray, " row"]) -> "Curvature":
        """The same of some of the examples: its mean is over those."""
        part = None if self.weights is None else self.weights[rows]
        return replace(self, examples=self.examples.take(rows), weights=part)

    def __call__(self, vectors: Float[Tensor, "vector param"]) -> Float[Tensor, "vector param"]:
        """The products of all vectors.

        Cost: per example about one gradient, and two thirds of one per vector and pass (there and back).
        """
        if self.kind == "fisher":
            return self._fisher(vectors)
        parameters = dict(self.engine.model.named_parameters())
        chosen = [parameters[name] for name in self.engine.names]
        product = _hessian_product if self.kind == "hessian" else _gauss_newton_product
        total, start = torch.zeros_like(vectors), 0
        for batch in self.engine.batches(self.examples):
            stop = start + length(batch)
            weights = None if self.weights is None else torch.from_numpy(self.weights[start:stop])
            # The fused attention kernels cannot be differentiated twice.
            with (
                torch.enable_grad(),
                torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
            ):
                total += product(self, chosen, batch, weights, vectors)
            start = stop
        return total / max(1, len(self.examples))

    def _fisher(self, vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        step = max(1, _ROW_NUMBERS // self.engine.size)
        for found in fisher_gradients(
            self.engine, self.learner, self.examples, kind=self.fisher, weights=self.weights, seed=self.seed
        ):
            for i in range(0, len(found), step):
                rows = self.engine.rows({name: f.slice(i, i + step) for name, f in found.factors.items()})
                weights = None if found.weights is None else found.weights[i : i + step]
                if self.layers is None:
                    total += _outer_product(rows, weights, vectors)
                    continue
                for layer in self.layers:
                    total[:, layer] += _outer_product(rows[:, layer], weights, vectors[:, layer])
        return total / max(1, len(self.examples))

    def trace(self, probes: Float[Tensor, "probe param"]) -> float:
        """The trace of the curvature: exactly where a factor of the output Hessian is narrow, else by probes.

        Args:
            probes: Random signs for Hutchinson's estimator, whose relative error is about
                ``sqrt(2 / probes)`` over the square root of the curvature's effective rank.
        """
        if self.kind == "fisher" or (self.kind == "gauss_newton" and narrow(self)):
            total, kind = 0.0, self.fisher if self.kind == "fisher" else "exact"
            for found in fisher_gradients(
                self.engine, self.learner, self.examples, kind=kind, weights=self.weights, seed=self.seed
            ):
                squares = self.engine.rows(found.factors).square().sum(1).double()
                total += float((squares if found.weights is None else squares * found.weights).sum())
            return total / max(1, len(self.examples))
        return float((self(probes) * probes).sum(1).mean())


def _outer_product(rows: Tensor, weights: Tensor | None, vectors: Tensor) -> Tensor:
    along = rows @ vectors.T
    return (along if weights is None else along * weights.to(along)[:, None]).T @ rows


def narrow(curvature: Curvature) -> bool:
    """Whether the output Hessian has so small a factor that a backward pass per column is affordable."""
    if isinstance(curvature.learner, HasOutputProducts):
        return False
    batch = next(iter(curvature.engine.batches(curvature.examples.take(slice(0, 1)))))
    with torch.no_grad():
        outputs = curvature.learner.output_function(curvature.engine.model, batch)
        return curvature.learner.output_hessian_factor(outputs, batch).shape[2] <= 16


def _gauss_newton_product(
    curvature: Curvature, parameters: Sequence[Tensor], batch: Batch, weights: Tensor | None, vectors: Tensor
) -> Tensor:
    kept = _Counter()
    with torch.autograd.graph.saved_tensors_hooks(kept.count, _same):
        outputs = curvature.learner.output_function(curvature.engine.model, batch)
    slots = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, parameters, slots, create_graph=True, allow_unused=True)
    used = [i for i, grad in enumerate(pulled) if grad is not None and grad.requires_grad]
    curve = _output_hessian(curvature.learner, outputs.detach(), batch)

    def product(chunk: Tensor) -> Tensor:
        parts = _split(chunk, parameters)
        tangents = cast(
            Tensor, _pull([cast(Tensor, pulled[i]) for i in used], [slots], [parts[i] for i in used])[0]
        )
        curved = curve(tangents)
        if weights is not None:
            curved = curved * weights.to(curved).view(-1, *([1] * (outputs.dim() - 1)))
        return _joined(_pull([outputs], parameters, [curved]), parameters, len(chunk))

    return _in_chunks(product, vectors, kept.bytes)


def _hessian_product(
    curvature: Curvature, parameters: Sequence[Tensor], batch: Batch, weights: Tensor | None, vectors: Tensor
) -> Tensor:
    kept = _Counter()
    with torch.autograd.graph.saved_tensors_hooks(kept.count, _same):
        losses = curvature.learner.loss_function(curvature.engine.model, batch)
    total = (losses if weights is None else losses * weights.to(losses)).sum()
    pulled = torch.autograd.grad(total, parameters, create_graph=True, allow_unused=True)
    used = [i for i, grad in enumerate(pulled) if grad is not None and grad.requires_grad]

    def product(chunk: Tensor) -> Tensor:
        parts = _split(chunk, parameters)
        found = _pull([cast(Tensor, pulled[i]) for i in used], parameters, [parts[i] for i in used])
        return _joined(found, parameters, len(chunk))

    return _in_chunks(product, vectors, kept.bytes)


def _output_hessian(learner: Curved, outputs: Tensor, batch: Batch) -> Callable[[Tensor], Tensor]:
    if isinstance(learner, HasOutputProducts):
        return lambda tangents: learner.output_hessian_product(outputs, tangents, batch)
    factor = learner.output_hessian_factor(outputs, batch)
    return lambda tangents: torch.einsum(
        "bor,vbr->vbo", factor, torch.einsum("bor,vbo->vbr", factor, tangents)
    )


def _pull(
    values: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor | None]:
    """Vector-Jacobian products for every entry of the vectors' first axis, in one vectorised pass if possible."""

    def pull(grads: Sequence[Tensor], *, batched: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            values, inputs, grads, is_grads_batched=batched, retain_graph=True, allow_unused=True
        )

    if len(vectors[0]) > 1:
        try:
            return list(pull(vectors, batched=True))
        except (RuntimeError, UserWarning):
            # An operation without a batching rule: one vector after another.
            pass
    singles = [pull([v[k] for v in vectors], batched=False) for k in range(len(vectors[0]))]
    columns = list(zip(*singles, strict=True))
    return [None if c[0] is None else torch.stack([cast(Tensor, g) for g in c]) for c in columns]


def _split(vectors: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    parts = vectors.split([p.numel() for p in parameters], dim=1)
    return [part.reshape(len(vectors), *p.shape) for part, p in zip(parts, parameters, strict=True)]


def _joined(found: Sequence[Tensor | None], parameters: Sequence[Tensor], count: int) -> Tensor:
    parts = [
        parameter.new_zeros(count, parameter.numel()) if grad is None else grad.detach().flatten(1)
        for grad, parameter in zip(found, parameters, strict=True)
    ]
    return torch.cat(parts, 1)


class _Counter:
    """Bytes that a forward pass keeps for its backward pass: how many vectors fit depends on them."""

    def __init__(self) -> None:
        self.bytes = 0

    def count(self, tensor: Tensor) -> Tensor:
        self.bytes += tensor.nbytes
        return tensor


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _in_chunks(product: Callable[[Tensor], Tensor], vectors: Tensor, kept: int) -> Tensor:
    per_vector = _GRAPH * kept + 4 * vectors[0].nbytes
    step = max(1, _AT_ONCE_BYTES // max(1, per_vector))
    return torch.cat([product(chunk) for chunk in vectors.split(step)])


def block_positions(engine: TorchGradients, examples: Examples) -> dict[str, Int[Tensor, "row column"]]:
    """Where the entries of each block's gradient matrix stand in a flat vector of parameters.

    Found from the functions that take a matrix apart, so that the two can never disagree.

    Cost: one forward and backward pass of one example.
    """
    offsets, start = {}, 0
    parameters = dict(engine.model.named_parameters())
    for name in engine.names:
        offsets[name] = start
        start += parameters[name].numel()
    blocks = {block.name: block for block in engine.coverage(examples).blocks}
    found = list(engine.capture(examples.take(slice(0, 1)), "loss"))[0]
    positions: dict[str, Tensor] = {}
    for name, factors in found.items():
        rows, columns = factors.shape
        index = torch.arange(rows * columns, dtype=torch.float64).view(1, rows, columns)
        if name not in blocks:
            parts = {name: index.flatten(1)}
        elif isinstance(factors, Rows):
            parts = split_rows(blocks[name], Rows(index[:, 0]), engine.model)
        else:
            parts = split_matrix(blocks[name], index)
        place = torch.empty(rows * columns, dtype=torch.long)
        for parameter, order in parts.items():
            flat = order[0].flatten().long()
            place[flat] = offsets[parameter] + torch.arange(len(flat))
        positions[name] = place.view(rows, columns)
    return positions


def query_side(
    vectors: Float[Tensor, "query param"], positions: Mapping[str, Int[Tensor, "row column"]]
) -> QuerySide:
    """Vectors in the space of the parameters, ready for ``TorchGradients.products``."""
    blocks = {name: Rows(vectors[:, place.flatten()]) for name, place in positions.items()}
    return QuerySide(blocks, len(vectors))


def with_metric(
    metric: KroneckerMetric,
    vectors: Float[Tensor, "vector param"],
    positions: Mapping[str, Int[Tensor, "row column"]],
) -> Float[Tensor, "vector param"]:
    """A Kronecker-factored inverse of the *mean* damped curvature, applied to vectors; 0 where no block is."""
    found = torch.zeros_like(vectors)
    for name, place in positions.items():
        block = metric.blocks.get(name)
        if block is None:
            continue
        matrices = vectors[:, place.flatten()].view(-1, *place.shape)
        inverse = (metric.total * metric.inverse(name)).to(vectors)
        found[:, place.flatten()] = block.unrotate(block.turn(matrices) * inverse).flatten(1)
    return found


def batches_of(count: int, size: int, generator: np.random.Generator) -> Iterator[Int[np.ndarray, " row"]]:
    """Endless batches of row numbers without replacement, a new order whenever all have been seen."""
    size = min(size, count)
    while True:
        order = generator.permutation(count)
        for start in range(0, count - size + 1, size):
            yield np.sort(order[start : start + size])
