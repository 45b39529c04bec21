"""Small models that stand in for a costly score: ridge regression that chooses its penalty, and what it misses."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from steelyard.errors import ShapeError
from steelyard.maths.ranks import spearman

_PENALTIES = 10.0 ** np.arange(-4, 5)
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted ridge regression on standardised features, one output per column.

    Attributes:
        centre: Mean of every feature.
        scale: Deviation of every feature; 1 where it is constant.
        weights: ``float["feature output"]``
        level: Mean of every output.
        penalty: Multiple of the mean eigenvalue of the Gram matrix that was added to its diagonal, for every output.
        held_out: Prediction of every example by a model that did not see it.
    """

    centre: Float[np.ndarray, " feature"]
    scale: Float[np.ndarray, " feature"]
    weights: Float[np.ndarray, "feature output"]
    level: Float[np.ndarray, " output"]
    penalty: Float[np.ndarray, " output"]
    held_out: Float[np.ndarray, "example output"]

    def predict(self, features: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row output"]:
        """Outputs of these rows."""
        return (features - self.centre) / self.scale @ self.weights + self.level


def fit_ridge(
    features: Float[np.ndarray, "example feature"],
    targets: Float[np.ndarray, "example output"],
    fold: Int[np.ndarray, " example"],
) -> Ridge:
    """Ridge regression whose penalty is the best of nine by cross-validation, output by output.

    Cost: one eigendecomposition of the smaller Gram matrix per fold, and one.

    Args:
        features: Of the examples that were probed.
        targets: What is to be predicted.
        fold: Part of every example; predictions ``held_out`` come from fits without its part.

    Raises:
        ShapeError: If there are fewer than ten examples.
    """
    if len(features) < 2 * _FOLDS:
        raise ShapeError(f"{len(features)} examples to learn from.", fix=f"give at least {2 * _FOLDS}.")
    predicted = np.empty((len(_PENALTIES), *targets.shape))
    for k in np.unique(fold):
        rest, held = fold != k, fold == k
        predicted[:, held] = _path(features[rest], targets[rest], features[held])
    best = ((predicted - targets) ** 2).mean(axis=1).argmin(axis=0)
    outputs = np.arange(targets.shape[1])
    centre, scale = _standard(features)
    level = targets.mean(axis=0)
    path = _weights((features - centre) / scale, targets - level, _PENALTIES)
    weights, held_out = path[best, :, outputs].T, predicted[best, :, outputs].T
    return Ridge(centre, scale, weights, level, _PENALTIES[best], held_out)


def folds_of(count: int, draw: np.random.Generator) -> Int[np.ndarray, " example"]:
    """Five parts of nearly equal size, at random."""
    return draw.permutation(np.arange(count) % _FOLDS)


def agreement(
    predicted: Float[np.ndarray, "example query"], measured: Float[np.ndarray, "example query"]
) -> dict[str, float | None]:
    """How far predictions order examples as measurements do: Spearman of the means, and the mean of those per query.

    None where something is constant.
    """
    of_means = spearman(predicted.mean(axis=1, keepdims=True), measured.mean(axis=1, keepdims=True))[0]
    each = spearman(predicted, measured)
    known = each[np.isfinite(each)]
    return {
        "spearman_of_means": float(of_means) if np.isfinite(of_means) else None,
        "mean_spearman_per_query": float(known.mean()) if len(known) else None,
    }


def gumbel_top_k(
    scores: Float[np.ndarray, " example"], count: int, *, temperature: float | int, draw: np.random.Generator
) -> Int[np.ndarray, " chosen"]:
    """Positions of ``count`` examples drawn without replacement, in proportion to exp(score / temperature).

    Scores are standardised first, so that the temperature means the same for every unit; near 0 the highest scores win,
    at large temperatures the draw is uniform.

    Source: Kool, van Hoof & Welling (2019), "Stochastic Beams and Where to Find Them: The Gumbel-Top-k Trick".
    """
    spread = scores.std()
    standard = (scores - scores.mean()) / (spread if spread > 0 else 1.0)
    noisy = standard / temperature + draw.gumbel(size=len(scores))
    return np.argsort(-noisy, kind="stable")[:count]


def greedy_relational(
    own: Float[np.ndarray, "example query"],
    vectors: Float[np.ndarray, "example feature"],
    count: int,
    *,
    redundancy: Float[np.ndarray, " query"],
) -> Int[np.ndarray, " chosen"]:
    """Examples chosen one by one, each for what it still adds to those before it, on average over the queries.

    An example adds ``own * (1 - redundancy * r)``, with r the sum of its cosines with those chosen; vectors have
    length 1.

    Cost: ``count`` products of all vectors with one.
    """
    gains, repeated = own.mean(axis=1), own @ redundancy / len(redundancy)
    related, left = np.zeros(len(own)), np.ones(len(own), dtype=bool)
    chosen: list[int] = []
    for _ in range(count):
        best = int(np.argmax(np.where(left, gains - repeated * related, -np.inf)))
        chosen.append(best)
        left[best] = False
        related += vectors @ vectors[best]
    return np.array(chosen, dtype=np.int64)


def _standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = features.std(axis=0)
    return features.mean(axis=0), np.where(scale > 1e-12, scale, 1.0)


def _path(features: np.ndarray, targets: np.ndarray, held: np.ndarray) -> np.ndarray:
    centre, scale = _standard(features)
    level = targets.mean(axis=0)
    weights = _weights((features - centre) / scale, targets - level, _PENALTIES)
    return np.einsum("hf,pfo->pho", (held - centre) / scale, weights) + level


def _weights(features: np.ndarray, targets: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """``float["penalty feature output"]`` From one eigendecomposition, of whichever Gram matrix is smaller."""
    wide = features.shape[1] > features.shape[0]
    gram = features @ features.T if wide else features.T @ features
    values, vectors = np.linalg.eigh(gram)
    mean = max(float(values.mean()), 1e-30)
    projected = vectors.T @ (targets if wide else features.T @ targets)
    found = [vectors @ (projected / (np.maximum(values, 0.0) + p * mean)[:, None]) for p in penalties]
    return np.stack([features.T @ one if wide else one for one in found])
