"""Leaf refits: every leaf of a model of trees computed again for other weights, trees keeping their shape."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect.leaves import Leaves
from steelyard.maths.leaves import leaf_sums
from steelyard.trees.forest import Forest

_TINY = 1e-12


def refitted(
    leaves: Leaves, weights: Float[np.ndarray, "fit example"]
) -> Float[np.ndarray, "query fit output"]:
    """Raw scores of the queries if the leaves had been made with those weights, round by round.

    A leaf that no weight is left in gets 0. Cost: gradient and Hessian of every example, fit and round, about 50 ns
    each; memory: about six doubles per example, fit and output.

    Args:
        leaves: The model and both sides' leaves.
        weights: Weight of every example in every fit.
    """
    forest, fits = leaves.forest, len(weights)
    shape = (len(leaves.train), fits, forest.objective.outputs)
    raw = np.tile(forest.base, (*shape[:2], 1))
    asked = np.tile(forest.base, (len(leaves.query), fits, 1))
    labels, heavy = np.repeat(leaves.labels_train, fits), np.ascontiguousarray(weights.T)[:, :, None]
    for trees in _rounds(forest):
        steps = {tree: np.zeros((_size(forest, tree), fits)) for tree in trees.tolist()}
        change = np.zeros(shape) if forest.leaf_steps > 1 else None
        for _ in range(forest.leaf_steps):
            at = (raw if change is None else raw + change).reshape(-1, shape[2])
            for tree, more in _steps(leaves, trees, at, labels, heavy):
                steps[tree] += more
            if change is not None:
                change[:] = 0
                for tree, step in steps.items():
                    change[:, :, forest.output[tree]] += step[leaves.train[:, tree]]
        for tree, step in steps.items():
            value = forest.shrinkage[tree] * step
            raw[:, :, forest.output[tree]] += value[leaves.train[:, tree]]
            asked[:, :, forest.output[tree]] += value[leaves.query[:, tree]]
    return asked


def _steps(
    leaves: Leaves, trees: Int[np.ndarray, " tree"], at: np.ndarray, labels: np.ndarray, heavy: np.ndarray
) -> Iterator[tuple[int, Float[np.ndarray, "leaf fit"]]]:
    """One step of every leaf of a round, before shrinkage."""
    forest, objective = leaves.forest, leaves.forest.objective
    shape = (*heavy.shape[:2], objective.outputs)
    gradient = objective.gradient(at, labels).reshape(shape) * heavy
    if forest.leaf_rule == "newton matrix":
        yield from _matrix_steps(leaves, trees, gradient, at, labels, heavy)
        return
    if forest.leaf_rule == "gradient":
        second = np.broadcast_to(heavy, shape)
    else:
        second = objective.hessian(at, labels).reshape(shape) * heavy
    for tree in trees.tolist():
        k, numbers, size = forest.output[tree], leaves.train[:, tree], _size(forest, tree)
        top = leaf_sums(numbers, gradient[:, :, k], size)
        bottom = leaf_sums(numbers, second[:, :, k], size) + _l2(forest, tree)[:, None]
        if forest.l1:
            top = np.sign(top) * np.maximum(np.abs(top) - forest.l1, 0)
        step = np.where(bottom > _TINY, -top / np.where(bottom > _TINY, bottom, 1), 0.0)
        if forest.max_delta_step:
            step = np.clip(step, -forest.max_delta_step, forest.max_delta_step)
        yield tree, step


def _matrix_steps(  # noqa: PLR0913 - the round's arrays, made once
    leaves: Leaves,
    trees: np.ndarray,
    gradient: np.ndarray,
    at: np.ndarray,
    labels: np.ndarray,
    heavy: np.ndarray,
) -> Iterator[tuple[int, np.ndarray]]:
    forest, outputs = leaves.forest, leaves.forest.objective.outputs
    rows, fits = heavy.shape[:2]
    second = forest.objective.jacobian(at, labels).reshape(rows, fits, outputs, outputs) * heavy[..., None]
    first = int(trees[0])  # the trees of a round share their shape
    numbers, size = leaves.train[:, first], _size(forest, first)
    top = leaf_sums(numbers, gradient.reshape(rows, -1), size).reshape(size, fits, outputs)
    bottom = leaf_sums(numbers, second.reshape(rows, -1), size).reshape(size, fits, outputs, outputs)
    bottom += _l2(forest, first)[:, None, None, None] * np.eye(outputs)
    step = -np.einsum("lfkc,lfc->lfk", np.linalg.pinv(bottom, hermitian=True), top)
    for tree in trees.tolist():
        yield tree, step[:, :, forest.output[tree]]


def _rounds(forest: Forest) -> Iterator[np.ndarray]:
    for number in range(forest.rounds):
        yield np.flatnonzero(forest.round == number)


def _size(forest: Forest, tree: int) -> int:
    return int(forest.leaf_starts[tree + 1] - forest.leaf_starts[tree])


def _l2(forest: Forest, tree: int) -> np.ndarray:
    return forest.l2[forest.leaf_starts[tree] : forest.leaf_starts[tree + 1]]
