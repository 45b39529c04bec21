"""Per-example gradients of scikit-learn's linear models; asked the same questions as the torch engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

from steelyard.errors import NumericsError
from steelyard.gradients.signs import Projection, rademacher
from steelyard.learners.sklearn_objectives import Inputs, Linear, Of, squared_lengths
from steelyard.records import Examples, Measurement

Metric = Float[np.ndarray, "param param"]


@dataclass(frozen=True, eq=False)
class LinearSide:
    """Query gradients ready for dot products.

    Attributes:
        slopes: Derivative in the outputs, signed and scaled.
        columns: Features of the queries.
        rows: Full gradients times a metric, where one was given; then used in place of the two others.
    """

    slopes: Float[np.ndarray, "query output"]
    columns: Inputs
    rows: Float[np.ndarray, "query param"] | None = None


@dataclass(frozen=True, eq=False)
class LinearGradients:
    """The gradient engine at one fitted linear model; answers what ``TorchGradients`` answers.

    Gradients are of each example's own value, unweighted and without penalty, in float64.

    Attributes:
        model: The model as one matrix.
        inputs: Features of examples, after the pipeline's transformers.
        measurement: Meaning and direction of what queries are asked.
        named: Its name where it is one of ours; None for the user's own function, which has no derivative.
        remarks: In words, for the record.
    """

    model: Linear
    inputs: Callable[[Examples], Any]
    measurement: Measurement
    named: str | None
    remarks: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of parameters: outputs times (features and intercept)."""
        return self.model.weights.size

    def notes(self, examples: Examples) -> tuple[str, ...]:
        """Handled cases in words; the same for all examples."""
        return self.remarks

    def dense(self, examples: Examples, of: Of = "loss") -> Float[np.ndarray, "example param"]:
        """Full gradients, parameters output by output, the intercept last in each.

        Memory: examples times parameters.
        """
        slopes, columns = self._factors(examples, of)
        full = columns.toarray() if isinstance(columns, sparse.csr_array) else columns
        return (slopes[:, :, None] * full[:, None, :]).reshape(len(slopes), -1)

    def prepare(
        self, queries: Examples, metric: Metric | None = None, *, unit_norm: bool = False
    ) -> LinearSide:
        """Query gradients of the measurement, ready for :meth:`products`.

        Gradients of measurements that should be high are negated, so that a positive product means that
        removing the training example makes the measurement worse.

        Args:
            queries: The queries.
            metric: A matrix M; products are then ``g_i^T M g_q``.
            unit_norm: Scale every query gradient to length one; a zero gradient stays zero.
        """
        slopes, columns = self._factors(queries, "measurement")
        slopes = slopes if self.measurement.lower_is_better else -slopes
        if unit_norm:
            length = np.sqrt(squared_lengths(slopes) * squared_lengths(columns))
            slopes = slopes / np.where(length > 0, length, 1.0)[:, None]
        if metric is None:
            return LinearSide(slopes, columns)
        full = columns.toarray() if isinstance(columns, sparse.csr_array) else columns
        rows = (slopes[:, :, None] * full[:, None, :]).reshape(len(slopes), -1)
        return LinearSide(slopes, columns, rows @ metric.T)

    def products(self, examples: Examples, side: LinearSide) -> Float[np.ndarray, "example query"]:
        """``g_i^T M g_q`` for every training example and query.

        Cost: without a metric one product of features and one of output derivatives; no full gradient.
        """
        slopes, columns = self._factors(examples, "loss")
        if side.rows is not None:
            outputs, width = self.model.weights.shape
            total = np.zeros((len(slopes), len(side.rows)))
            for output, rows in enumerate(np.split(side.rows, outputs, axis=1)):
                total += slopes[:, output, None] * (columns @ rows.T)
            return total
        return (slopes @ side.slopes.T) * _dots(columns, side.columns)

    def self_products(
        self, examples: Examples, metric: Metric | None = None
    ) -> Float[np.ndarray, " example"]:
        """``g_i^T M g_i`` of every training example; the squared length without a metric."""
        slopes, columns = self._factors(examples, "loss")
        if metric is None:
            return squared_lengths(slopes) * squared_lengths(columns)
        rows = self.dense(examples)
        return np.einsum("np,np->n", rows @ metric, rows)

    def norms(self, examples: Examples) -> Float[np.ndarray, " example"]:
        """Euclidean length of every training gradient."""
        return np.sqrt(self.self_products(examples))

    def features(
        self, examples: Examples, projection: Projection, of: Of = "loss"
    ) -> Float[np.ndarray, "example feature"]:
        """Projected gradients: their dot products estimate dot products of gradients without bias.

        One Rademacher matrix over all parameters, whatever ``projection.kind``: linear models are small
        enough.
        """
        slopes, columns = self._factors(examples, of)
        signs = rademacher(self.size, projection.dimension, seed=projection.seed, name="linear/dense")
        blocks = np.split(signs / np.sqrt(projection.dimension), self.model.weights.shape[0])
        total = np.zeros((len(slopes), projection.dimension))
        for output, block in enumerate(blocks):
            total += slopes[:, output, None] * (columns @ block)
        return total

    def _factors(self, examples: Examples, of: Of) -> tuple[np.ndarray, Inputs]:
        columns = self.model.columns(self.inputs(examples))
        slopes = self.model.slopes(columns, examples.labels(), of, self.named)
        bad = np.flatnonzero(~np.isfinite(slopes).all(axis=1))
        if len(bad):
            raise NumericsError(
                f"{examples.source}: the gradient of example {str(examples.ids[bad[0]])!r} is not finite.",
                fix="look at this example for extreme values.",
            )
        return slopes, columns


def _dots(left: Inputs, right: Any) -> np.ndarray:
    product = left @ right.T
    return product.toarray() if sparse.issparse(product) else np.asarray(product)
