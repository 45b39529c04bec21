"""Products of gradients taken apart, the part without torch: what the parts are and what they sum to."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

By = Literal["token", "module", "layer", "head"]


@dataclass(frozen=True)
class Heads:
    """How attention projections are divided.

    Attributes:
        count: Heads of queries and of the output.
        key_value: Heads of keys and values, where they are fewer.
    """

    count: int
    key_value: int | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """Products of training examples and queries, part by part.

    Attributes:
        names: Parts, the same for every example; empty for tokens, of which examples have different numbers.
        offsets: ``int64[" example_plus_one"]`` Parts of example i are rows ``offsets[i]`` to ``offsets[i + 1]``.
        values: ``float["part query"]``
        rest: ``float["example query"]`` What belongs to no part.
    """

    names: tuple[str, ...]
    offsets: np.ndarray
    values: np.ndarray
    rest: np.ndarray

    def of(self, example: int) -> Float[np.ndarray, "part query"]:
        """The parts of one example."""
        return self.values[int(self.offsets[example]) : int(self.offsets[example + 1])]

    def times(self, factors: Float[np.ndarray, " example"]) -> "Split":
        """Everything about each example times its own number."""
        repeated = np.repeat(factors, np.diff(self.offsets))
        return replace(self, values=self.values * repeated[:, None], rest=self.rest * factors[:, None])

    def whole(self) -> Float[np.ndarray, "example query"]:
        """The products themselves: the sum of all parts and the rest."""
        sums = np.zeros((len(self.values) + 1, self.values.shape[1]))
        np.cumsum(self.values, axis=0, out=sums[1:])
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]] + self.rest
