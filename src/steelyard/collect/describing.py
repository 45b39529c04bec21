"""What surrogates know about an example: its embedding, its label, and where the model errs on it."""

import numpy as np
from jaxtyping import Float

from steelyard.collect.dynamics import label_columns
from steelyard.errors import CapabilityError, DataError
from steelyard.problem import HasEmbeddings, HasPredictions, Problem, require
from steelyard.records import Examples
from steelyard.run.seeds import generator

_WIDTH = 256


def describe(
    problem: Problem, fitted: object, examples: Examples, *, method: str
) -> Float[np.ndarray, "row feature"]:
    """Features of examples at a model: embedding, and products of embedding and error of the predicted probabilities.

    The products are the gradient of the last layer, which a step on the example and its effect on others are nearly
    linear in. Where they are more than 256 they are projected onto 256 random signs. Without class probabilities, the
    embedding alone.

    Cost: two forward passes per example.

    Args:
        problem: Learner and seed of the projection.
        fitted: The model.
        examples: To describe; with labels.
        method: Who asks, for errors.

    Raises:
        CapabilityError: If the learner offers no embeddings.
    """
    learner = require(problem.learner, HasEmbeddings, method=method, instead="leave_one_out")
    vectors = np.asarray(learner.embed(fitted, examples), dtype=np.float64)
    error = _errors(problem, fitted, examples)
    if error is None:
        return vectors
    products = np.einsum("ec,ef->ecf", error, np.column_stack([vectors, np.ones(len(vectors))]))
    flat = products.reshape(len(vectors), -1)
    if flat.shape[1] > _WIDTH:
        signs = generator(problem.seed, "describe", flat.shape[1]).choice(
            [-1.0, 1.0], (flat.shape[1], _WIDTH)
        )
        flat = flat @ signs / _WIDTH**0.5
    return np.column_stack([vectors, error, flat])


def unit_vectors(features: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row feature"]:
    """Rows of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)


def _errors(problem: Problem, fitted: object, examples: Examples) -> np.ndarray | None:
    if not isinstance(problem.learner, HasPredictions) or examples.label is None:
        return None
    try:
        error = np.array(problem.learner.probabilities(fitted, examples), dtype=np.float64)
        columns = label_columns(problem.train, error.shape[1])
    except (CapabilityError, DataError):
        return None  # no classes: the embedding is all there is
    if examples is not problem.train:
        known, first = np.unique(problem.train.labels(), return_index=True)
        own = examples.labels()
        places = np.minimum(np.searchsorted(known, own), len(known) - 1)
        if not bool((known[places] == own).all()):
            return None
        columns = columns[first][places]
    error[np.arange(len(error)), columns] -= 1.0
    return error
