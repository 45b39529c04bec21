"""Leaf values from the training data, round by round and leaf by leaf: what the libraries did, written out plainly."""

import numpy as np

from steelyard.trees.forest import raw_scores


def recomputed(forest, numbers, labels, weights):
    """Values that every leaf gets by the forest's rule at the raw scores that its own earlier trees give."""
    found = np.empty_like(forest.values)
    for tree in range(forest.trees):
        raw = raw_scores(forest, numbers, rounds=int(forest.round[tree]))
        first, last = forest.leaf_starts[tree], forest.leaf_starts[tree + 1]
        for leaf in range(last - first):
            rows = numbers[:, tree] == leaf
            if not rows.any():
                found[first + leaf] = 0.0  # a leaf that no example reaches
                continue
            inside, output = raw[rows], int(forest.output[tree])
            for _ in range(forest.leaf_steps):
                step = _step(forest, (inside, labels[rows], weights[rows]), output, forest.l2[first + leaf])
                inside = inside + step * (np.arange(raw.shape[1]) == output)
            found[first + leaf] = forest.shrinkage[tree] * (inside - raw[rows])[0, output]
    return found


def _step(forest, inside, output, l2):
    raw, labels, weights = inside
    gradient = weights @ forest.objective.gradient(raw, labels)
    if forest.leaf_rule == "newton matrix":
        curvature = np.einsum("r,rij->ij", weights, forest.objective.jacobian(raw, labels))
        return -np.linalg.solve(curvature + l2 * np.eye(len(gradient)), gradient)[output]
    second = weights @ forest.objective.hessian(raw, labels)
    bottom = weights.sum() if forest.leaf_rule == "gradient" else second[output]
    top = np.sign(gradient[output]) * max(0.0, abs(gradient[output]) - forest.l1)
    step = -top / (bottom + l2)
    return np.clip(step, -forest.max_delta_step, forest.max_delta_step) if forest.max_delta_step else step
