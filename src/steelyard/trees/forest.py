"""The layout that every library's boosted trees are brought into, and how rows go through it.

Nodes of all trees stand one after another; a row goes left where its value is at most the threshold. What the
libraries do differently is brought into the arrays by their converters: a strict comparison becomes the next smaller
threshold, a comparison in single precision is a rounding of the table, a missing value goes where the node says.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from steelyard.trees.objectives import Objective

LeafRule = Literal["newton", "newton matrix", "gradient", "renewed", "unknown"]
"""How a leaf's value followed from the examples in it, all times the tree's shrinkage.

``newton``: ``-soft(G, l1) / (H + l2)``, G and H the weighted sums of gradient and Hessian in the leaf, ``soft``
shrinking towards 0 by l1, the result clipped to ``max_delta_step`` where that is above 0. ``newton matrix``: the same
for the outputs of a round together, with the full matrix of second derivatives (CatBoost's softmax). ``gradient``: H is
the sum of weights. ``renewed``: a weighted quantile of the residuals (absolute and quantile losses). ``unknown``: what
the library did is not such a rule; no method that recomputes leaves may be used.
"""

NO_MISSING, ZERO_MISSING, NAN_MISSING = 0, 1, 2
"""What a node takes for missing: nothing (NaN counts as 0), zero and NaN, NaN."""

_ZERO = 1e-35  # LightGBM's kZeroThreshold: what it rounds to zero


@dataclass(frozen=True, eq=False)
class Forest:
    """Boosted trees as arrays. L1, L2 and shrinkage are those of the training, already inside ``values``.

    Attributes:
        feature: Column that a node splits on; -1 at a leaf.
        threshold: A row goes left where its value is at most this.
        left: Node on the left; -1 at a leaf.
        right: Node on the right; -1 at a leaf.
        missing: ``NO_MISSING``, ``ZERO_MISSING`` or ``NAN_MISSING``.
        missing_left: Whether missing values go left.
        category: Row of ``categories`` at a split on categories; -1 at all other nodes.
        categories: ``categories[category, code]``: whether that category goes left. The last column stands for all
            codes that the model does not know.
        leaf: Number of the leaf within its tree; -1 at an inner node.
        starts: First node of every tree, and the number of nodes.
        output: Which raw score a tree adds to.
        round: Trees of one round were grown at the same raw scores.
        values: What a leaf adds to the raw score, all trees one after another: tree ``t`` has
            ``values[leaf_starts[t]:leaf_starts[t + 1]]``.
        leaf_starts: First leaf of every tree, and the number of leaves.
        base: Raw scores before the first tree.
        objective: What the training minimised.
        shrinkage: Learning rate of every tree.
        l1: Penalty on the absolute value of a leaf.
        l2: Penalty on the square of a leaf, leaf by leaf (LightGBM adds ``cat_l2`` below categorical splits).
        max_delta_step: Largest leaf before shrinkage; 0 if there is no limit.
        leaf_rule: How leaves got their values.
        leaf_steps: How many steps of the rule (CatBoost's ``leaf_estimation_iterations``); 1 elsewhere.
        covers: What the library says lay in every leaf when it was grown: see ``cover_kind``.
        cover_kind: ``"rows"``, ``"weight"``, ``"hessian"``, or ``"unknown"``.
        single: Whether values are compared in single precision.
        row_share: Share of the rows drawn for every round; 1 if all.
        column_share: Smallest share of columns drawn for a tree, level or split; 1 if all.
        library: ``"LightGBM 4.7.0"``, for notes and errors.
    """

    feature: Int[np.ndarray, " node"]
    threshold: Float[np.ndarray, " node"]
    left: Int[np.ndarray, " node"]
    right: Int[np.ndarray, " node"]
    missing: Int[np.ndarray, " node"]
    missing_left: Bool[np.ndarray, " node"]
    category: Int[np.ndarray, " node"]
    categories: Bool[np.ndarray, "split code"]
    leaf: Int[np.ndarray, " node"]
    starts: Int[np.ndarray, " bound"]
    output: Int[np.ndarray, " tree"]
    round: Int[np.ndarray, " tree"]
    values: Float[np.ndarray, " leaf"]
    leaf_starts: Int[np.ndarray, " bound"]
    base: Float[np.ndarray, " output"]
    objective: Objective
    shrinkage: Float[np.ndarray, " tree"]
    l1: float
    l2: Float[np.ndarray, " leaf"]
    max_delta_step: float
    leaf_rule: LeafRule
    leaf_steps: int
    covers: Float[np.ndarray, " leaf"]
    cover_kind: Literal["rows", "weight", "hessian", "unknown"]
    single: bool
    row_share: float
    column_share: float
    library: str

    @property
    def trees(self) -> int:
        """Number of trees."""
        return len(self.starts) - 1

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return int(self.round[-1]) + 1 if len(self.round) else 0


def leaves(forest: Forest, rows: Float[np.ndarray, "row feature"]) -> Int[np.ndarray, "row tree"]:
    """Number of the leaf, within its tree, that every row falls into.

    Node by node, all rows of a node at once: a tree is a few passes over one column each, whatever its shape.

    Args:
        forest: The trees.
        rows: Features as the library compares them; categories as codes, missing values as NaN.

    Returns:
        ``int32["row tree"]``, column-major, so that one tree's leaves lie together.
    """
    columns = np.asfortranarray(rows, dtype=np.float32 if forest.single else np.float64)
    found = np.empty((len(rows), forest.trees), dtype=np.int32, order="F")
    for tree in range(forest.trees):
        _through(forest, int(forest.starts[tree]), columns, found[:, tree])
    return found


def raw_scores(
    forest: Forest, numbers: Int[np.ndarray, "row tree"], rounds: int | None = None
) -> Float[np.ndarray, "row output"]:
    """Raw scores of rows by their leaves, after all rounds or after the first few.

    Args:
        forest: The trees.
        numbers: Leaf of every row in every tree.
        rounds: How many rounds; all if None.
    """
    scores = np.tile(forest.base, (len(numbers), 1))
    for tree in range(forest.trees):
        if rounds is None or forest.round[tree] < rounds:
            values = forest.values[forest.leaf_starts[tree] : forest.leaf_starts[tree + 1]]
            scores[:, forest.output[tree]] += values[numbers[:, tree]]
    return scores


def _through(forest: Forest, root: int, columns: np.ndarray, found: np.ndarray) -> None:
    waiting = [(root, np.arange(len(found), dtype=np.int32))]
    while waiting:
        node, rows = waiting.pop()
        if forest.feature[node] < 0:
            found[rows] = forest.leaf[node]
        elif len(rows):
            left = _goes_left(forest, node, columns[rows, forest.feature[node]])
            waiting.append((int(forest.left[node]), rows[left]))
            waiting.append((int(forest.right[node]), rows[~left]))


def _goes_left(forest: Forest, node: int, values: np.ndarray) -> np.ndarray:
    missing = np.isnan(values)
    if forest.category[node] >= 0:
        sets = forest.categories[forest.category[node]]
        known = (values > -1) & (values < len(sets) - 1)
        left = sets[np.where(known, values, len(sets) - 1).astype(np.int64)]
    else:
        kind = forest.missing[node]
        if kind == NO_MISSING:
            return np.where(missing, 0.0, values) <= forest.threshold[node]
        if kind == ZERO_MISSING:
            missing |= np.abs(values) <= _ZERO
        left = values <= forest.threshold[node]
    return np.where(missing, forest.missing_left[node], left)
