"""The course of boosting: what every round's trees added up in their leaves, and how leaves follow from examples.

With G and H the weighted sums of gradient and Hessian of a leaf's examples at the raw scores before the round, the
leaf's step is ``theta = -G / (H + l2)``, and adding weight dw to an example in it moves the step by

    dtheta = -(g + theta h) dw / (H + l2),

0 where the penalty on absolute values or the largest step decides. The same holds with a matrix for H (CatBoost's
softmax), and with 1 for h where a leaf is a mean of gradients. Where a library makes several Newton steps per leaf, all
is taken at the raw scores that they led to, which is exact in the limit of many steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from steelyard.collect.leaves import Leaves
from steelyard.errors import CapabilityError
from steelyard.maths.leaves import leaf_sums
from steelyard.trees.forest import Forest

_RULES = ("newton", "newton matrix", "gradient")
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Round:
    """The trees of one round and the raw scores they were grown at.

    Attributes:
        trees: Their positions.
        before: Raw scores before the round.
        raw: Raw scores of the training examples at which leaves are judged: those before the round; with several
            steps per leaf, those after them, before shrinkage.
        steps: Step (value over shrinkage) of every example's leaf, 0 for outputs without a tree.
    """

    trees: Int[np.ndarray, " tree"]
    before: Float[np.ndarray, "example output"]
    raw: Float[np.ndarray, "example output"]
    steps: Float[np.ndarray, "example output"]


@dataclass(frozen=True, eq=False)
class Course:
    """What the methods on leaves read of a training.

    Attributes:
        leaves: The model and both sides' leaves.
        train: Leaves of the training examples, numbered over all trees.
        query: The same for the queries.
        pulls: ``g + theta h`` of every example in every tree, per unit of its weight.
        gives: How far a leaf moves per unit of such a pull: ``shrinkage / (H + l2)`` by output of the pulling and
            of the pulled tree of the round, ``["leaf output"]``; one column where trees do not share a matrix.
        counts: Training examples of weight above 0 in every leaf.
    """

    leaves: Leaves
    train: Int[np.ndarray, "example tree"]
    query: Int[np.ndarray, "query tree"]
    pulls: Float[np.ndarray, "example tree"]
    gives: Float[np.ndarray, "leaf pulled"]
    counts: Float[np.ndarray, " leaf"]

    @property
    def forest(self) -> Forest:
        """The trees."""
        return self.leaves.forest

    @property
    def total(self) -> int:
        """Number of leaves of all trees."""
        return int(self.forest.leaf_starts[-1])

    def moved(
        self, trees: Int[np.ndarray, " tree"], slopes: Float[np.ndarray, "leaf_or_query tree"], at: np.ndarray
    ) -> np.ndarray:
        """Slopes by the values of one round's leaves, as slopes by the pulls on them.

        Args:
            trees: The trees of one round.
            slopes: One column per tree.
            at: ``["leaf_or_query tree"]`` The leaves meant, numbered over all trees.
        """
        if self.gives.shape[1] == 1:
            return slopes * self.gives[at, 0].reshape(slopes.shape)
        outputs = self.forest.output[trees]
        # gives[leaf of tree k][c]: tree k moves by it times the pull on output c; trees of a round share their shape.
        matrix = np.stack([self.gives[at[:, k]] for k in range(len(trees))], axis=1)[:, :, outputs]
        return np.einsum("qk,qkc->qc", slopes, matrix)


def course_of(leaves: Leaves, *, method: str) -> Course:
    """Go through the training once.

    Cost: gradient and Hessian of every example in every round; memory: one double per example and tree.

    Args:
        leaves: The model and both sides' leaves.
        method: Who asks, for the error.

    Raises:
        CapabilityError: If the model's leaves are no Newton or gradient steps.
    """
    forest = leaves.forest
    check_rule(forest, method=method)
    train, query = (side + forest.leaf_starts[:-1].astype(np.int32) for side in (leaves.train, leaves.query))
    pulls = np.empty(leaves.train.shape)
    matrix = forest.leaf_rule == "newton matrix"
    gives = np.zeros((int(forest.leaf_starts[-1]), forest.objective.outputs if matrix else 1))
    for one in rounds(forest, leaves.train):
        found = _pulls(leaves, one)
        for tree in one.trees.tolist():
            pulls[:, tree] = found[:, forest.output[tree]]
        _fill(leaves, one, gives)
    present = (leaves.weights > 0).astype(np.float64)
    counts = np.concatenate(
        [
            np.bincount(leaves.train[:, tree], weights=present, minlength=_size(forest, tree))
            for tree in range(forest.trees)
        ]
    )
    return Course(leaves, train, query, pulls, gives, counts)


def check_rule(forest: Forest, *, method: str) -> None:
    """Whether leaves follow from examples by a rule that can be differentiated.

    Raises:
        CapabilityError: If not.
    """
    if forest.leaf_rule not in _RULES:
        raise CapabilityError(
            f"{method} follows leaf values back to examples, but this model's are {forest.leaf_rule!r} "
            f"({forest.objective.kind} loss, {forest.library}).",
            fix="use tree_sim, trex or leave_one_out, or train with squared, Huber, logistic or softmax loss.",
        )


def rounds(forest: Forest, numbers: Int[np.ndarray, "row tree"], *, back: bool = False) -> Iterator[Round]:
    """Every round in order, or from the last to the first, with what its trees saw.

    Memory: a few arrays ``["row output"]``; going back, raw scores are had by subtraction.
    """
    values = [forest.values[forest.leaf_starts[t] : forest.leaf_starts[t + 1]] for t in range(forest.trees)]
    raw = np.tile(forest.base, (len(numbers), 1))
    groups = [np.flatnonzero(forest.round == r) for r in range(forest.rounds)]
    if back:
        for tree in range(forest.trees):
            raw[:, forest.output[tree]] += values[tree][numbers[:, tree]]
    for trees in reversed(groups) if back else groups:
        steps, change = np.zeros_like(raw), np.zeros_like(raw)
        for tree in trees.tolist():
            own = values[tree][numbers[:, tree]]
            change[:, forest.output[tree]] += own
            steps[:, forest.output[tree]] += own / forest.shrinkage[tree]
        if back:
            raw = raw - change
        yield Round(trees, raw, raw + steps if forest.leaf_steps > 1 else raw, steps)
        if not back:
            raw = raw + change


def bends(leaves: Leaves, one: Round) -> Float[np.ndarray, "example output output"]:
    """Derivative of every example's pull, by output, by all of its raw scores, the step held fixed."""
    forest = leaves.forest
    objective, raw = forest.objective, one.raw
    jacobian = objective.jacobian(raw, leaves.labels_train)
    if forest.leaf_rule == "gradient" or forest.leaf_steps > 1:
        return jacobian
    if forest.leaf_rule == "newton matrix":
        p, steps = softmax(raw, axis=1), one.steps
        centred = steps - (p * steps).sum(axis=1, keepdims=True)
        swing = np.einsum("ikl,il->ik", jacobian, steps)
        return jacobian + jacobian * centred[:, :, None] - p[:, :, None] * swing[:, None, :]
    if objective.kind == "softmax":
        factor = objective.scale * (1 - 2 * softmax(raw, axis=1))
        return jacobian * (1 + (factor * one.steps)[:, :, None])
    third = objective.third(raw, leaves.labels_train) * one.steps
    return jacobian + third[:, :, None] * np.eye(objective.outputs)


def _pulls(leaves: Leaves, one: Round) -> Float[np.ndarray, "example output"]:
    forest, objective = leaves.forest, leaves.forest.objective
    gradient = objective.gradient(one.raw, leaves.labels_train)
    if forest.leaf_steps > 1:
        return gradient
    if forest.leaf_rule == "gradient":
        return gradient + one.steps
    if forest.leaf_rule == "newton matrix":
        return gradient + np.einsum("ikl,il->ik", objective.jacobian(one.raw, leaves.labels_train), one.steps)
    return gradient + one.steps * objective.hessian(one.raw, leaves.labels_train)


def _fill(leaves: Leaves, one: Round, gives: np.ndarray) -> None:
    """``gives`` of one round's leaves; 0 for leaves without examples and where a penalty or limit decides."""
    forest, weights = leaves.forest, leaves.weights[:, None]
    outputs = forest.objective.outputs
    if forest.leaf_rule == "newton matrix":
        curvature = forest.objective.jacobian(one.raw, leaves.labels_train).reshape(len(weights), -1)
        for tree in one.trees.tolist():
            part = slice(int(forest.leaf_starts[tree]), int(forest.leaf_starts[tree + 1]))
            sums = leaf_sums(leaves.train[:, tree], weights * curvature, _size(forest, tree))
            square = sums.reshape(-1, outputs, outputs) + forest.l2[part, None, None] * np.eye(outputs)
            occupied = np.trace(square, axis1=1, axis2=2) > _TINY
            inverse = np.linalg.pinv(square[occupied], hermitian=True)
            gives[part][occupied] = forest.shrinkage[tree] * inverse[:, forest.output[tree]]
        return
    gradient = forest.objective.gradient(one.raw, leaves.labels_train)
    second = (
        np.ones_like(gradient)
        if forest.leaf_rule == "gradient"
        else forest.objective.hessian(one.raw, leaves.labels_train)
    )
    for tree in one.trees.tolist():
        part, k = slice(int(forest.leaf_starts[tree]), int(forest.leaf_starts[tree + 1])), forest.output[tree]
        both = weights * np.stack([gradient[:, k], second[:, k]], axis=1)
        top, bottom = leaf_sums(leaves.train[:, tree], both, _size(forest, tree)).T
        bottom = bottom + forest.l2[part]
        free = bottom > _TINY
        if forest.leaf_steps == 1:
            free &= np.abs(top) > forest.l1 if forest.l1 else True
            if forest.max_delta_step:
                free &= np.maximum(np.abs(top) - forest.l1, 0) < forest.max_delta_step * bottom
        gives[part, 0] = np.where(free, forest.shrinkage[tree] / np.where(free, bottom, 1.0), 0.0)


def _size(forest: Forest, tree: int) -> int:
    return int(forest.leaf_starts[tree + 1] - forest.leaf_starts[tree])
