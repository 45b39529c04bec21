"""From one tree at a time, as a converter reads it, to the arrays of a forest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from steelyard.errors import ModelError
from steelyard.trees.forest import Forest


@dataclass(frozen=True, eq=False)
class Tree:
    """One tree, nodes and leaves numbered from 0; the attributes are those of ``Forest``.

    Attributes:
        sets: Which codes go left at every split on categories, the last entry for all other codes; ``category`` of a
            node is its place here.
    """

    feature: Int[np.ndarray, " node"]
    threshold: Float[np.ndarray, " node"]
    left: Int[np.ndarray, " node"]
    right: Int[np.ndarray, " node"]
    missing: Int[np.ndarray, " node"]
    missing_left: Bool[np.ndarray, " node"]
    category: Int[np.ndarray, " node"]
    leaf: Int[np.ndarray, " node"]
    values: Float[np.ndarray, " leaf"]
    covers: Float[np.ndarray, " leaf"]
    l2: Float[np.ndarray, " leaf"]
    output: int
    round: int
    shrinkage: float
    sets: Sequence[Bool[np.ndarray, " _"]] = ()  # each of its own length


def assembled(trees: Sequence[Tree], **facts: Any) -> Forest:
    """The forest of these trees.

    Args:
        trees: In the order in which they were grown.
        **facts: The attributes of ``Forest`` that are not arrays over trees, nodes or leaves.

    Raises:
        ModelError: If there is no tree.
    """
    if not trees:
        raise ModelError(
            f"the {facts['library']} model has no trees.",
            fix="train it for at least one round; nothing was learned.",
        )
    sizes = [len(tree.feature) for tree in trees]
    starts, split_starts, leaf_starts = (
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        for counts in (sizes, [len(tree.sets) for tree in trees], [len(tree.values) for tree in trees])
    )

    def shifted(name: str, by: np.ndarray) -> np.ndarray:
        parts = [np.asarray(getattr(tree, name), dtype=np.int64) for tree in trees]
        return np.concatenate([np.where(part >= 0, part + by[k], -1) for k, part in enumerate(parts)])

    def joined(name: str, kind: type) -> np.ndarray:
        return np.concatenate([np.asarray(getattr(tree, name), dtype=kind) for tree in trees])

    def listed(name: str, kind: type) -> np.ndarray:
        return np.array([getattr(tree, name) for tree in trees], dtype=kind)

    return Forest(
        feature=joined("feature", np.int64),
        threshold=joined("threshold", np.float64),
        left=shifted("left", starts),
        right=shifted("right", starts),
        missing=joined("missing", np.int8),
        missing_left=joined("missing_left", np.bool_),
        category=shifted("category", split_starts),
        categories=_padded([one for tree in trees for one in tree.sets]),
        leaf=joined("leaf", np.int64),
        starts=starts,
        output=listed("output", np.int64),
        round=listed("round", np.int64),
        values=joined("values", np.float64),
        leaf_starts=leaf_starts,
        shrinkage=listed("shrinkage", np.float64),
        l2=joined("l2", np.float64),
        covers=joined("covers", np.float64),
        **facts,
    )


def numbered(left: np.ndarray) -> np.ndarray:
    """Numbers of the leaves in the order of their nodes; -1 at inner nodes."""
    is_leaf = left < 0
    return np.where(is_leaf, np.cumsum(is_leaf) - 1, -1)


def _padded(sets: Sequence[np.ndarray]) -> np.ndarray:
    width = max((len(one) for one in sets), default=1)
    table = np.zeros((len(sets), width), dtype=bool)
    for row, one in zip(table, sets, strict=True):
        row[:] = one[-1]
        row[: len(one) - 1] = one[:-1]
    return table
